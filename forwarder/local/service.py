"""The RPC methods: what the vendor's API answers, on real processes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from typing import TYPE_CHECKING, Any

from cwsandbox._proto import sandbox_pb2 as pb

from forwarder.local.errors import invalid, not_found, not_running
from forwarder.local.exchange import CURRENT
from forwarder.local.logstore import LogReader, Since
from forwarder.local.sandbox import Sandbox, UnknownContainerError
from forwarder.local.sessions import InvalidOffsetError, ReplayGapError, Session, SessionTable
from forwarder.local.streams import Counters, LogStream, OpenStreams, log_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from connectrpc.request import RequestContext

    from forwarder.local.processes import ContainerProcess
    from forwarder.local.sandboxes import SandboxRegistry
    from forwarder.local.settings import Faults, LocalSettings

_DEFAULT_PAGE_SIZE = 100
_MAX_PAGE_SIZE = 1000
_MAX_GRACE_S = 60


class SandboxService:
    """The methods of `coreweave.sandbox.v1.SandboxService` that the service has."""

    def __init__(
        self,
        settings: LocalSettings,
        faults: Faults,
        sandboxes: SandboxRegistry,
        sessions: SessionTable,
        streams: OpenStreams,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._faults = faults
        self._sandboxes = sandboxes
        self._sessions = sessions
        self._streams = streams
        self._counters = counters

    async def create_sandbox(
        self, request: pb.CreateSandboxRequest, _: RequestContext[Any, Any]
    ) -> pb.Sandbox:
        """Start the containers' commands as processes of this machine."""
        containers = request.sandbox.spec.containers
        if not containers:
            raise invalid("sandbox.spec.containers: at least one container is wanted")
        names = [container.name for container in containers]
        if len(set(names)) != len(names):
            raise invalid("sandbox.spec.containers: every container needs a name of its own")
        sandbox = await self._sandboxes.create(request.sandbox, request.request_id)
        return sandbox.describe()

    async def get_sandbox(
        self, request: pb.GetSandboxRequest, _: RequestContext[Any, Any]
    ) -> pb.Sandbox:
        """What there is to know of one sandbox."""
        return self._known(request.sandbox_id).describe()

    async def list_sandboxes(
        self, request: pb.ListSandboxesRequest, _: RequestContext[Any, Any]
    ) -> pb.ListSandboxesResponse:
        """One page, by creation; a page token is the number of the sandbox before the page."""
        found = self._sandboxes.select(
            tags=request.tags,
            state=request.state,
            show_terminated=request.show_terminated,
            runner_ids=request.runner_ids,
        )
        if request.sort_direction == pb.SORT_DIRECTION_DESCENDING:
            found.reverse()
        size = min(request.page_size or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)
        if size < 0:
            raise invalid("page_size: must not be negative")
        page, more = _page(found, request, size)
        return pb.ListSandboxesResponse(
            sandboxes=[sandbox.describe() for sandbox in page],
            next_page_token=_page_token(page[-1].number) if more else "",
        )

    async def delete_sandbox(
        self, request: pb.DeleteSandboxRequest, _: RequestContext[Any, Any]
    ) -> pb.DeleteSandboxResponse:
        """Stop the processes: SIGTERM, SIGKILL after the grace period. Logs stay readable."""
        if request.allow_missing and self._sandboxes.get(request.sandbox_id) is None:
            return pb.DeleteSandboxResponse()
        sandbox = self._known(request.sandbox_id)
        await sandbox.stop(min(request.grace_period_seconds, _MAX_GRACE_S))
        return pb.DeleteSandboxResponse(sandbox=sandbox.describe())

    async def stream_logs(
        self, request: pb.StreamLogsRequest, _: RequestContext[Any, Any]
    ) -> AsyncIterator[pb.LogEntry]:
        """Send a log, or go on with one; see `forwarder.local.streams`."""
        with self._counters.counted_opening():
            await asyncio.sleep(self._settings.open_delay_s)
            sandbox = self._known(request.sandbox_id)
            session, process, refusal = self._open(request, sandbox)
        if refusal is not None:
            yield refusal
            return
        assert session is not None
        stream = LogStream(
            session,
            CURRENT.get(),
            self._faults,
            follow=request.follow,
            message_bytes=self._settings.message_bytes,
            announce=self._settings.announce_session,
            time_ns=time.time_ns,
            rename=self._sessions.rename,
        )
        generation = session.generation
        self._sessions.use(session)
        self._streams.add(stream)
        process.listeners.add(stream.wake)
        try:
            async for entry in stream.messages():
                yield entry
        finally:
            process.listeners.discard(stream.wake)
            self._streams.discard(stream)
            self._sessions.release(session, generation)

    def _known(self, sandbox_id: str) -> Sandbox:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise not_found(sandbox_id)
        return sandbox

    def _open(
        self, request: pb.StreamLogsRequest, sandbox: Sandbox
    ) -> tuple[Session | None, ContainerProcess, pb.LogEntry | None]:
        """The session to send from, or the in-band error to answer with."""
        _check(request)
        try:
            name, process = sandbox.container(request.container)
        except UnknownContainerError as error:
            raise invalid(f"container: the sandbox has no container {error}") from error
        if request.resume_log_session_id:
            session, refusal = self._resume(request, sandbox)
            if session is not None:
                _, process = sandbox.container(session.container)
            return session, process, refusal
        if not sandbox.running and (
            request.follow or not sandbox.has_ended or not self._settings.ended_serves_logs
        ):
            raise not_running(sandbox.id)
        return self._begin(request, sandbox.id, name, process), process, None

    def _begin(
        self, request: pb.StreamLogsRequest, sandbox_id: str, name: str, process: ContainerProcess
    ) -> Session:
        self._counters.streams_fresh += 1
        log = process.log
        start = log.tail_index(request.tail_lines) if request.tail_lines else log.first_index
        reader = LogReader(log, start, timestamps=request.timestamps, since=self._since(request))
        if request.follow:
            window = self._settings.replay_window_bytes
            return self._sessions.add(sandbox_id, name, reader, window)
        return Session("", sandbox_id, name, reader, 0)

    def _since(self, request: pb.StreamLogsRequest) -> Since | None:
        if not request.HasField("since_time"):
            return None
        return Since.of(
            request.since_time.ToNanoseconds(),
            inclusive=self._settings.since_inclusive,
            granularity=self._settings.since_granularity,
            per_line=self._settings.since_per_line,
        )

    def _resume(
        self, request: pb.StreamLogsRequest, sandbox: Sandbox
    ) -> tuple[Session | None, pb.LogEntry | None]:
        if sandbox.has_ended and not self._settings.ended_resumes:
            raise not_running(sandbox.id)
        session = self._sessions.find(request.resume_log_session_id, sandbox.id)
        if session is None:
            return None, log_error("SESSION_NOT_FOUND")
        try:
            session.rewind(request.resume_log_offset, self._faults.replay_extra_bytes)
        except InvalidOffsetError:
            return None, log_error("INVALID_RESUME_OFFSET")
        except ReplayGapError:
            return None, log_error("REPLAY_GAP")
        self._streams.wake()
        self._counters.streams_resumed += 1
        return session, None


def _check(request: pb.StreamLogsRequest) -> None:
    """Refuse what the API refuses."""
    if request.tail_lines < 0:
        raise invalid("tail_lines: must not be negative")
    if not request.resume_log_session_id:
        if request.resume_log_offset:
            raise invalid("resume_log_offset: needs resume_log_session_id")
        return
    if not request.follow:
        raise invalid("resume_log_session_id: only a follow stream can be resumed")
    if request.tail_lines or request.HasField("since_time") or request.timestamps:
        raise invalid(
            "resume_log_session_id: excludes tail_lines, since_time and timestamps;"
            " the session keeps its formatting"
        )


def _page(
    found: list[Sandbox], request: pb.ListSandboxesRequest, size: int
) -> tuple[list[Sandbox], bool]:
    if request.page_token:
        after = _page_number(request.page_token)
        descending = request.sort_direction == pb.SORT_DIRECTION_DESCENDING
        found = [s for s in found if (s.number < after if descending else s.number > after)]
    return found[:size], len(found) > size


def _page_token(number: int) -> str:
    return base64.urlsafe_b64encode(b"after:%d" % number).decode()


def _page_number(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token).removeprefix(b"after:"))
    except (binascii.Error, ValueError) as error:
        raise invalid("page_token: not one of ours") from error
