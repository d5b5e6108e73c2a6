"""Every page of a listing, or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from forwarder.errors import SourceUnavailableError
from forwarder.model import Sandbox

#: Small enough for any server, large enough that 5,000 sandboxes are 50 calls.
PAGE_SIZE = 100

#: Far beyond any account's sandboxes: a server that goes on for ever is broken.
MAX_PAGES = 10_000

#: Fetches the page of a token; empty is the first page. Returns it with the next page's token.
FetchPage = Callable[[str], Awaitable[tuple[list[Sandbox], str]]]


async def all_pages(fetch: FetchPage) -> list[Sandbox]:
    """Follow every page; a sandbox that moved between pages while we read is listed once.

    Raises:
        SourceUnavailableError: The pages do not end: a token came twice, or there are too many.
        SourceError: A page failed, and with it the whole listing.
    """
    found: dict[str, Sandbox] = {}
    seen = {""}
    token = ""
    for _ in range(MAX_PAGES):
        page, token = await fetch(token)
        found.update((sandbox.id, sandbox) for sandbox in page)
        if not token:
            return list(found.values())
        if token in seen:
            raise SourceUnavailableError("ListSandboxes repeats a page token", code="internal")
        seen.add(token)
    raise SourceUnavailableError(f"ListSandboxes has over {MAX_PAGES} pages", code="internal")
