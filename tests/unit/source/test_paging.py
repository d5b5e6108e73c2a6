"""Listings of many pages; pages over the wire are in the contract suite."""

from __future__ import annotations

import itertools

import pytest

from forwarder.errors import SourceUnavailableError
from forwarder.model import Sandbox, SandboxState
from forwarder.source import paging
from forwarder.source.paging import all_pages


def sandbox(sandbox_id: str, state: SandboxState = SandboxState.RUNNING) -> Sandbox:
    return Sandbox(sandbox_id, state)


async def test_a_sandbox_on_two_pages_is_listed_once_and_as_last_seen() -> None:
    pages = {
        "": ([sandbox("a"), sandbox("b")], "2"),
        "2": ([sandbox("a", SandboxState.COMPLETED)], ""),
    }

    async def fetch(token: str) -> tuple[list[Sandbox], str]:
        return pages[token]

    assert await all_pages(fetch) == [sandbox("a", SandboxState.COMPLETED), sandbox("b")]


async def test_a_loop_of_several_tokens_is_noticed() -> None:
    tokens = itertools.cycle(["x", "y"])

    async def fetch(_token: str) -> tuple[list[Sandbox], str]:
        return [], next(tokens)

    with pytest.raises(SourceUnavailableError, match="repeats"):
        await all_pages(fetch)


async def test_pages_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_PAGES", 50)
    tokens = itertools.count()

    async def fetch(_token: str) -> tuple[list[Sandbox], str]:
        return [], str(next(tokens))

    with pytest.raises(SourceUnavailableError, match="50 pages"):
        await all_pages(fetch)
