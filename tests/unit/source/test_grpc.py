"""What only the gRPC client can meet."""

from __future__ import annotations

import asyncio

import pytest

from forwarder.errors import SourceUnavailableError
from forwarder.source.grpc import STREAMS_PER_CHANNEL, GrpcSource, _Channels, _options
from forwarder.source.messages_pb2 import Sandbox
from tests.fakes.api import GrpcApi


def channels() -> _Channels:
    return _Channels("127.0.0.1:1", _options(1, 1000), None, secure=False)


def test_a_base_url_with_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="path"):
        GrpcSource("https://api.example.com/prefix", credentials=dict)


async def test_a_channel_takes_so_many_streams_and_gives_their_places_back() -> None:
    pool = channels()
    first = pool.for_stream()
    channel = first.__enter__().channel
    others = [pool.for_stream() for _ in range(STREAMS_PER_CHANNEL)]
    taken = [other.__enter__().channel for other in others]
    assert all(each is channel for each in taken[:-1])
    assert taken[-1] is not channel
    first.__exit__(None, None, None)
    with pool.for_stream() as again:
        assert again.channel is channel
    for other in others:
        other.__exit__(None, None, None)
    await pool.close()


async def test_a_channel_whose_server_lets_no_more_streams_in_gets_no_more() -> None:
    pool = channels()
    with pool.for_stream() as let_in:
        let_in.answered()
        with pytest.raises(asyncio.CancelledError), pool.for_stream():
            raise asyncio.CancelledError
        with pool.for_stream() as other:
            assert other.channel is not let_in.channel
    await pool.close()


async def test_a_stream_that_is_refused_says_nothing_about_the_room_on_its_channel() -> None:
    pool = channels()
    with pool.for_stream() as let_in:
        let_in.answered()
        with pytest.raises(OSError, match="refused"), pool.for_stream():
            raise OSError("refused")
        with pool.for_stream() as other:
            assert other.channel is let_in.channel
    await pool.close()


async def test_calls_have_a_channel_that_no_stream_uses() -> None:
    pool = channels()
    with pool.for_stream() as seat:
        assert pool.for_calls() is not seat.channel
        assert pool.for_calls() is pool.for_calls()
    await pool.close()


async def test_closed_channels_are_not_made_again() -> None:
    pool = channels()
    await pool.close()
    with pytest.raises(SourceUnavailableError, match="closed"):
        pool.for_calls()


async def test_an_unexpected_answer_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.api._dump", lambda _message: b"\xff\xff")
    async with GrpcApi().serve() as api:
        source = GrpcSource(api.base_url, credentials=dict)
        api.answer(Sandbox())
        with pytest.raises(SourceUnavailableError, match="cannot be read"):
            await source.get_sandbox("sbx-1")
        await source.close()
