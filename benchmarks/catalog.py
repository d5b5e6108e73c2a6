"""The sandboxes that the benchmark server knows, and the API's answers about them."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from cwsandbox._proto import sandbox_pb2 as api

from benchmarks import wire
from benchmarks.served import Answers, Group, ServedSandbox, ServerSpec

SERVICE = "coreweave.sandbox.v1.SandboxService"


class ApiError(Exception):
    """An error in the API's own terms; `code` is a Connect code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where a stream begins, and in which session."""

    session: wire.Session
    start: int


class Catalog:
    """The sandboxes, and the API's answers about them."""

    def __init__(self, spec: ServerSpec) -> None:
        self.groups = [Group(each) for each in spec.groups]
        self.sandboxes: dict[str, ServedSandbox] = {}
        self._group_of: dict[str, Group] = {}
        if spec.corpora:
            answers = Answers(_map(Path(spec.corpus_path)))
            for each in spec.corpora:
                self.sandboxes[each.id] = answers.sandbox(each)
        for group in self.groups:
            for sandbox in group.sandboxes:
                self.sandboxes[sandbox.id] = sandbox
                self._group_of[sandbox.id] = group

    def find(self, sandbox_id: str) -> ServedSandbox:
        """The sandbox of that id.

        Raises:
            ApiError: There is none.
        """
        try:
            return self.sandboxes[sandbox_id]
        except KeyError:
            raise ApiError("not_found", f"no sandbox {sandbox_id!r}") from None

    def get_sandbox(self, request: api.GetSandboxRequest) -> api.Sandbox:
        """One sandbox."""
        return _message(self.find(request.sandbox_id))

    def list_sandboxes(self, request: api.ListSandboxesRequest) -> api.ListSandboxesResponse:
        """A page of the sandboxes that have all the tags."""
        wanted = set(request.tags)
        matching = [
            each
            for each in self.sandboxes.values()
            if wanted <= set(each.tags) and (request.show_terminated or not each.ended)
        ]
        first = int(request.page_token or 0)
        last = first + (request.page_size or 100)
        return api.ListSandboxesResponse(
            sandboxes=[_message(each) for each in matching[first:last]],
            next_page_token=str(last) if last < len(matching) else "",
        )

    def open_stream(self, request: api.StreamLogsRequest) -> tuple[ServedSandbox, LogPosition]:
        """Decide where a stream begins.

        Raises:
            ApiError: Unknown sandbox, unknown session, or a request that cannot be served.
        """
        sandbox = self.find(request.sandbox_id)
        place = _position(sandbox, request)
        sandbox.opened()
        if sandbox.id in self._group_of:
            self._group_of[sandbox.id].opened()
        return sandbox, place

    def open_stream_count(self) -> int:
        """Sandboxes of which a stream was ever opened."""
        return sum(each.streams_opened > 0 for each in self.sandboxes.values())


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def _message(sandbox: ServedSandbox) -> api.Sandbox:
    return api.Sandbox(
        sandbox_id=sandbox.id,
        spec=api.SandboxSpec(
            tags=sandbox.tags,
            containers=[api.Container(name="main", image="bench:latest", primary=True)],
        ),
        status=api.SandboxStatus(
            state=api.STATE_COMPLETED if sandbox.ended else api.STATE_RUNNING,
            runner_id="runner-1",
        ),
    )


def _position(sandbox: ServedSandbox, request: api.StreamLogsRequest) -> LogPosition:
    if request.resume_log_session_id:
        return _resumed(sandbox, request)
    if not request.timestamps:
        raise ApiError("invalid_argument", "this server has stamped lines only")
    start = 0
    if request.HasField("since_time"):
        start = sandbox.position_since(request.since_time.ToNanoseconds())
    if request.tail_lines:
        start = max(start, sandbox.position_of_tail(request.tail_lines))
    return LogPosition(wire.Session(start), start)


def _resumed(sandbox: ServedSandbox, request: api.StreamLogsRequest) -> LogPosition:
    if not request.follow or request.timestamps or request.tail_lines:
        raise ApiError("invalid_argument", "resuming needs follow, and excludes everything else")
    session = wire.Session.parse(request.resume_log_session_id)
    if session is None:
        raise ApiError("not_found", "no such log session")
    start = session.start + request.resume_log_offset
    if start > len(sandbox.raw):
        raise ApiError("invalid_argument", "the offset is ahead of the log")
    return LogPosition(session, start)
