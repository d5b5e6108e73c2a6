"""The stored-logs endpoint of the local service, in every way in which it may answer."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings, StatusFault
from tests.fakes.local import StatusError, call, create_sandbox, delete_sandbox, stored_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

S = 1_000_000_000


class Running:
    """A service that stores logs, with one silent sandbox, into whose log a test writes."""

    def __init__(self, server: LocalServer, sandbox_id: str) -> None:
        self.server = server
        self.sandbox_id = sandbox_id
        self.at = (server.base_url, server.api_key)

    def write(self, *records: tuple[int, bytes]) -> None:
        self.server.process(self.sandbox_id).record(records)

    async def page(self, **query: Any) -> dict[str, Any]:
        return await stored_page(*self.at, self.sandbox_id, **query)

    async def texts(self) -> list[str]:
        return [entry["message"] for entry in (await self.page())["entries"]]

    async def refused(self, **query: Any) -> StatusError:
        with pytest.raises(StatusError) as caught:
            await self.page(**query)
        return caught.value


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Running]:
    async with LocalServer(LocalSettings(**{"stored_logs": "on", **settings})) as server:
        sandbox_id = await create_sandbox(server.base_url, server.api_key, "sleep", ["600"])
        yield Running(server, sandbox_id)


async def test_lines_come_in_pages_ordered_by_stamp_and_id() -> None:
    async with running() as local:
        local.write((3 * S, b"c\n"), (1 * S, b"a\n"), (2 * S + 500, b"b\n"))
        first = await local.page(pageSize=2)
        assert [(entry["timestamp"], entry["message"]) for entry in first["entries"]] == [
            ("1970-01-01T00:00:01Z", "a"),
            ("1970-01-01T00:00:02.000000500Z", "b"),
        ]
        assert len({entry["eventId"] for entry in first["entries"]}) == 2
        last = await local.page(pageSize=2, pageToken=first["nextPageToken"])
        assert [entry["message"] for entry in last["entries"]] == ["c"]
        assert "nextPageToken" not in last


async def test_a_log_stays_stored_after_rotation_restart_and_end() -> None:
    async with running() as local:
        local.write((1 * S, b"old\n"), (1 * S, b"open"))
        assert "retentionExpiresAt" not in await local.page()
        assert local.server.rotate() == 2
        await local.server.restart_container(local.sandbox_id)
        local.write((2 * S, b"new\n"))
        await delete_sandbox(*local.at, local.sandbox_id)
        assert await local.texts() == ["old", "open", "new"]
        assert (await local.page())["retentionExpiresAt"].endswith("Z")


async def test_one_container_or_all_of_them() -> None:
    async with running() as local:
        containers = [{"name": name, "command": "sleep", "args": ["600"]} for name in ("a", "b")]
        body = {"sandbox": {"spec": {"containers": containers}}}
        sandbox_id = (await call(*local.at, "CreateSandbox", body))["sandboxId"]
        for place, name in enumerate(("a", "b")):
            local.server.process(sandbox_id, name).record([(place, b"of %s\n" % name.encode())])
        page = await stored_page(*local.at, sandbox_id, container="b")
        assert [entry["message"] for entry in page["entries"]] == ["of b"]
        page = await stored_page(*local.at, sandbox_id)
        assert [entry["container"] for entry in page["entries"]] == ["a", "b"]
        with pytest.raises(StatusError) as caught:
            await stored_page(*local.at, sandbox_id, container="c")
        assert caught.value.code == "invalid_argument"


async def test_fields_may_have_other_names() -> None:
    async with running(stored_field_names="logs,time,body") as local:
        local.write((1 * S, b"a\n"))
        (entry,) = (await local.page())["logs"]
        assert (entry["time"], entry["body"]) == ("1970-01-01T00:00:01Z", "a")


async def test_what_is_stored_is_not_quite_what_was_printed() -> None:
    settings: dict[str, Any] = {
        "stored_precision_ns": 1_000_000,
        "stored_normalises_json": True,
        "stored_max_line_bytes": 12,
        "stored_misses_last_s": 1.5,
    }
    async with running(**settings) as local:
        local.write(
            (1 * S + 123_456_789, b'{"b": 1, "a": 2}\n'),
            (2 * S, b"0123456789abcdef\n"),
            (3 * S, b"late\n"),
        )
        assert await local.texts() == ['{"a":2,"b":1', "0123456789ab", "late"]
        entries = (await local.page())["entries"]
        assert entries[0]["timestamp"] == "1970-01-01T00:00:01.123Z"
        await delete_sandbox(*local.at, local.sandbox_id)
        assert await local.texts() == ['{"a":2,"b":1']


@pytest.mark.parametrize(
    ("stored_logs", "code", "reason"),
    [
        ("not_enabled", "failed_precondition", "CWSANDBOX_LOGS_NOT_ENABLED"),
        ("off", "unimplemented", "CWSANDBOX_NOT_IMPLEMENTED"),
    ],
)
async def test_a_service_may_refuse(stored_logs: str, code: str, reason: str) -> None:
    async with running(stored_logs=stored_logs) as local:
        error = await local.refused()
        assert (error.code, error.reason, error.domain) == (code, reason, "cwsandbox.com")


async def test_a_service_may_know_nothing_of_it() -> None:
    async with running(stored_logs="unimplemented") as local:
        url = f"{local.at[0]}/v1/sandboxes/{local.sandbox_id}/logs"
        headers = {"Authorization": f"Bearer {local.at[1]}"}
        async with httpx.AsyncClient(headers=headers) as client:
            response = await client.get(url)
        assert response.status_code == httpx.codes.NOT_FOUND
        assert response.headers["content-type"].startswith("text/plain")


async def test_the_key_is_wanted_and_faults_apply() -> None:
    async with running() as local:
        with pytest.raises(StatusError) as caught:
            await stored_page(local.at[0], "wrong", local.sandbox_id)
        assert caught.value.code == "unauthenticated"
        fault = StatusFault("resource_exhausted", 1, "CWSANDBOX_LOG_QUERY_LIMIT_EXCEEDED", 2.5)
        local.server.faults.statuses = {"ListSandboxLogs": fault}
        error = await local.refused()
        assert (error.code, error.retry_delay_s) == ("resource_exhausted", 2.5)
        assert await local.texts() == []


@pytest.mark.parametrize(
    "query", [{"pageSize": "many"}, {"pageSize": "-1"}, {"pageToken": "odd"}, {"pageToken": "YQ=="}]
)
async def test_a_query_that_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    async with running() as local:
        assert (await local.refused(**query)).code == "invalid_argument"


async def test_an_unknown_sandbox_is_not_found() -> None:
    async with running() as local:
        with pytest.raises(StatusError) as caught:
            await stored_page(*local.at, "sbx-none")
        assert caught.value.reason == "CWSANDBOX_SANDBOX_NOT_FOUND"
