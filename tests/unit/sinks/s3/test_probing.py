"""What a store can do is found out by trying, and said in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.probing import Promise, check, probe
from tests.fakes.s3_server import S3Server
from tests.fakes.s3_store import settings_for, store_for
from tests.fakes.web_server import Reply, WebServer

if TYPE_CHECKING:
    from typing import Any

    from tests.fakes.s3_bucket import Conditions
    from tests.fakes.s3_server import S3Fault

_KEY = "logs/_manifests/.probe"


async def _checked(server: S3Server, **more: Any) -> str:
    async with store_for(server.url, **more) as store:
        return await check(store, settings_for(server.url, **more))


@pytest.mark.parametrize(
    ("conditions", "promise"),
    [
        ("honoured", Promise.CREATE_ONLY),
        ("ignored", Promise.HEAD_AND_COMPARE),
        ("not_implemented", Promise.HEAD_AND_COMPARE),
        ("invalid", Promise.HEAD_AND_COMPARE),
    ],
)
async def test_a_promise_is_what_the_store_does(conditions: Conditions, promise: Promise) -> None:
    async with S3Server(conditions=conditions) as server, store_for(server.url) as store:
        for _ in range(2):
            assert await probe(store, "logs/_manifests/") is promise
        assert server.bucket.objects == {}
    assert promise.words


async def test_a_probe_that_may_not_be_deleted_is_met_again() -> None:
    async with S3Server() as server, store_for(server.url) as store:
        server.bucket.refused = {"DELETE"}
        for _ in range(3):
            assert await probe(store, "logs/_manifests/") is Promise.CREATE_ONLY
        assert list(server.bucket.objects) == [_KEY]
    assert server.bucket.overwritten == []


async def test_a_store_that_allows_one_write_a_second_is_understood_all_the_same() -> None:
    async with S3Server() as server, store_for(server.url) as store:
        server.fail("", "slow_down", on="PUT")
        with pytest.raises(SinkUnavailableError):
            await probe(store, "logs/_manifests/")
        assert list(server.bucket.objects) == [_KEY]
        assert await probe(store, "logs/_manifests/") is Promise.CREATE_ONLY


@pytest.mark.parametrize("fault", ["timeout", "slow_down", "reset", "error_in_200"])
async def test_without_an_answer_there_is_no_promise(fault: S3Fault) -> None:
    limit = {"idle_timeout": "50ms"}
    async with S3Server() as server, store_for(server.url, **limit) as store:
        server.fail(fault)
        with pytest.raises(SinkUnavailableError):
            await probe(store, "logs/_manifests/")


async def test_a_refusal_that_is_not_about_the_condition_is_told() -> None:
    """Whatever such a store is sent it answers 501: the promise is not the trouble."""
    error = Reply(501, {}, b"<Error><Code>NotImplemented</Code></Error>")
    async with WebServer(default=error) as server, store_for(server.url) as store:
        with pytest.raises(SinkMisconfiguredError, match="storage_class"):
            await probe(store, "logs/_manifests/")


async def test_a_check_tells_all_that_works_and_leaves_nothing() -> None:
    async with S3Server() as server:
        said = await _checked(server)
        assert server.bucket.objects == {}
    assert said == (
        "writes objects; reads them back; lists them; deletes them;"
        " the store itself refuses to write a key twice"
    )


async def test_a_check_says_which_promise_the_store_cannot_give() -> None:
    async with S3Server(conditions="ignored") as server:
        assert "cannot refuse to write a key twice" in await _checked(server)
        with pytest.raises(SinkMisconfiguredError, match="set it to auto"):
            await _checked(server, conditional_writes="on")
    async with S3Server() as server:
        assert "cannot refuse" in await _checked(server, conditional_writes="off")


@pytest.mark.parametrize(
    ("refused", "words"),
    [("DELETE", "stays"), ("LIST", "only `archive` without the spool needs")],
)
async def test_what_the_sink_need_not_do_is_said_and_no_trouble(refused: str, words: str) -> None:
    async with S3Server() as server:
        server.bucket.refused = {refused}
        assert words in await _checked(server)


@pytest.mark.parametrize(
    ("refused", "words"),
    [("PUT", "answered 403"), ("HEAD", "cannot be compared"), ("GET", "cannot be compared")],
)
async def test_what_the_sink_must_do_is_explained(refused: str, words: str) -> None:
    async with S3Server() as server:
        server.bucket.refused = {refused}
        with pytest.raises(SinkMisconfiguredError, match=words) as caught:
            await _checked(server)
    assert caught.value.credentials


@pytest.mark.parametrize(("conditions", "fatal"), [("honoured", False), ("ignored", True)])
async def test_a_store_that_hides_what_is_missing_is_told_of(
    conditions: Conditions, *, fatal: bool
) -> None:
    async with S3Server(conditions=conditions) as server:
        server.bucket.hides_missing = True
        if not fatal:
            assert "nothing goes up in parts" in await _checked(server)
            return
        with pytest.raises(SinkMisconfiguredError, match="s3:ListBucket"):
            await _checked(server)


async def test_a_store_that_loses_what_is_said_of_objects_is_told_of() -> None:
    async with S3Server() as server:
        server.bucket.keeps_metadata = False
        assert "does not keep their metadata" in await _checked(server)


async def test_a_store_that_changes_objects_is_none() -> None:
    async with S3Server() as server:
        server.fail("foreign", on="GET")
        with pytest.raises(SinkMisconfiguredError, match="something changes objects"):
            await _checked(server)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("moved", "set region: us-east-1"),
        ("early_refusal", "may not do this"),
        ("skewed", "clock"),
        ("expired_token", "expired"),
    ],
)
async def test_a_check_explains_what_must_be_mended(fault: S3Fault, words: str) -> None:
    async with S3Server() as server:
        server.fail(fault)
        with pytest.raises(SinkMisconfiguredError, match=words):
            await _checked(server)
