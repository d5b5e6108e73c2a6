"""What the local service is told before it starts, and the faults it is told while it runs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from forwarder.local.archive import Storing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KIB = 1024
MIB = 1024 * KIB
UINT64_MAX = 2**64 - 1

ConnectCode = Literal[
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
]
CONNECT_CODES: tuple[str, ...] = get_args(ConnectCode)
_STORED_NAMES = 3


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """The service's choices, above all where the real API's behaviour is unknown.

    Attributes:
        port: TCP port on 127.0.0.1; 0 takes a free one.
        api_key: The bearer key every call must carry; made up when not given.
        message_bytes: Most bytes of log data in one message.
        announce_session: Begin each log stream with an empty message, so that headers and the
            session id arrive before the first line. Without it a silent sandbox answers nothing.
        since_inclusive: Whether a line stamped exactly `since_time` passes.
        since_granularity: `exact`, or `second`: `since_time` is cut to its whole second first, as
            in the Kubernetes log API.
        since_per_line: Test every line; else the filter is off after the first line that passes.
        ended_serves_logs: Whether an ended sandbox still answers `follow=False`; else it is
            `failed_precondition`, as `follow=True` always is.
        ended_resumes: Whether a session of an ended sandbox can still be resumed.
        replay_window_bytes: How far behind the last byte sent a session can be resumed.
        session_lifetime_s: How long a session outlives its stream.
        retention_bytes: Log kept per container, stamps included; the oldest goes first.
        max_line_bytes: A longer line is kept as several records without a newline between them,
            each with its own stamp, as container runtimes do (at 16 KiB in CRI).
        stderr_skew_ns: Added to every stderr stamp, for logs whose stamps are out of order.
        max_concurrent_streams: HTTP/2 streams per connection.
        compression: Whether messages may be gzipped for clients that accept it.
        max_ended_sandboxes: Ended sandboxes remembered; the oldest are forgotten, logs and all.
        open_delay_s: How long opening a log stream takes.
        restart_keeps_log: After a container's restart a log stream serves the log of all of its
            processes, one after the other; else only the newest one's, as the Kubernetes log API.
        stored_logs: The stored-logs endpoint: `on`; `not_enabled`, refusing with
            `CWSANDBOX_LOGS_NOT_ENABLED`; `unimplemented`, a bare 404 as where nothing is routed;
            or `off`, the API's own `unimplemented`. Lines are only stored when it is `on`.
        stored_field_names: How a page calls its list of entries, and an entry its time and text.
        stored_precision_ns: Stored stamps are cut to a multiple of this.
        stored_normalises_json: Whether a line that is a JSON object is stored with sorted keys and
            without spaces.
        stored_misses_last_s: Once the sandbox has ended, lines stamped less than so many seconds
            before its newest line, and that line, are missing.
        stored_max_line_bytes: More of a line is not stored; 0 for no limit.
    """

    port: int = 0
    api_key: str = field(default_factory=lambda: f"local-{secrets.token_hex(12)}")
    message_bytes: int = 16 * KIB
    announce_session: bool = True
    since_inclusive: bool = True
    since_granularity: Literal["exact", "second"] = "exact"
    since_per_line: bool = True
    ended_serves_logs: bool = True
    ended_resumes: bool = True
    replay_window_bytes: int = MIB
    session_lifetime_s: float = 300.0
    retention_bytes: int = 64 * MIB
    max_line_bytes: int = 16 * MIB
    stderr_skew_ns: int = 0
    max_concurrent_streams: int = 1000
    compression: bool = False
    max_ended_sandboxes: int = 1000
    open_delay_s: float = 0.0
    restart_keeps_log: bool = False
    stored_logs: Literal["off", "on", "not_enabled", "unimplemented"] = "off"
    stored_field_names: str = "entries,timestamp,message"
    stored_precision_ns: int = 1
    stored_normalises_json: bool = False
    stored_misses_last_s: float = 0.0
    stored_max_line_bytes: int = 0

    def __post_init__(self) -> None:
        names = self.stored_field_names.split(",")
        if len(set(names)) != _STORED_NAMES or not all(names):
            raise ValueError("stored_field_names: three names are wanted, with commas")
        if self.stored_precision_ns < 1:
            raise ValueError("stored_precision_ns: must be at least 1")

    @property
    def storing(self) -> Storing:
        """How lines are changed when they are stored."""
        return Storing(
            precision_ns=self.stored_precision_ns,
            normalises_json=self.stored_normalises_json,
            max_line_bytes=self.stored_max_line_bytes,
        )


@dataclass(slots=True)
class StatusFault:
    """The next `calls` calls of a method fail with this status.

    Attributes:
        retry_delay_s: Sent as `google.rpc.RetryInfo` when given.
    """

    code: ConnectCode = "unavailable"
    calls: int = 1
    reason: str = ""
    retry_delay_s: float | None = None

    def __post_init__(self) -> None:
        if self.code not in CONNECT_CODES:
            raise ValueError(f"code: {self.code!r} is not a Connect code")


@dataclass
class Faults:
    """Faults to inject; every one may be set at any moment and acts on open streams at once.

    The `*_after_*` faults count from the beginning of each log stream, so that a client which
    resumes makes progress and meets the fault again.

    Attributes:
        piece_bytes: Cut messages into pieces of this size.
        cut_after_bytes: End the body without the end of the stream after so many bytes of data.
        cut_after_messages: The same, after so many messages (the announcement is not counted).
        end_after_bytes: End the stream cleanly, too early.
        error_after_bytes: End the stream with the in-band error `error_code`.
        status_after_bytes: End the stream with the transport status `status_code`.
        stall: Send nothing, close nothing.
        silent: The same, but only on the followed streams that are open when it is set: a new or
            resumed stream is served normally.
        change_session: Each stream that has sent data goes on under another session id with its
            next data, once; offsets are counted anew from there, and the old id is not known any
            more. Unset it and set it again for another change.
        replay_extra_bytes: Resume so many bytes earlier than asked.
        offset_shift: Added to every offset sent (never below 0).
        offset_value: Sent instead of every offset.
        hide_session: Send no session id and no offset, as a server without sessions.
        data_after_error: Send a line after an in-band error, which nobody may read.
        refuse_credentials: Answer every call as if the key were wrong or not allowed.
        statuses: By method name (`GetSandbox`, ...; `ListSandboxLogs` for the stored logs):
            transport errors for its next calls.
    """

    piece_bytes: int | None = None
    cut_after_bytes: int | None = None
    cut_after_messages: int | None = None
    end_after_bytes: int | None = None
    error_after_bytes: int | None = None
    error_code: str = "STREAM_INTERRUPTED"
    status_after_bytes: int | None = None
    status_code: ConnectCode = "unavailable"
    stall: bool = False
    silent: bool = False
    change_session: bool = False
    replay_extra_bytes: int = 0
    offset_shift: int = 0
    offset_value: int | None = None
    hide_session: bool = False
    data_after_error: bool = False
    refuse_credentials: Literal["", "unauthenticated", "permission_denied"] = ""
    statuses: dict[str, StatusFault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_listeners", [])

    # Hidden from the type checker, which would otherwise accept any name.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            """Set one fault and tell the open streams."""
            if name not in _FAULT_NAMES:
                raise AttributeError(f"no fault is called {name!r}")
            super().__setattr__(name, value)
            for listener in self.__dict__.get("_listeners", ()):
                listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change."""
        listeners: list[Callable[[], None]] = self.__dict__["_listeners"]
        listeners.append(listener)

    def merge(self, changes: Mapping[str, Any]) -> None:
        """Set several faults from JSON values; nothing changes when one of them is wrong.

        `statuses` replaces the whole table; each of its values is an object with `StatusFault`'s
        fields.

        Raises:
            ValueError: An unknown name or a value of the wrong type.
        """
        checked = {name: _checked(name, value) for name, value in changes.items()}
        for name, value in checked.items():
            setattr(self, name, value)

    def reset(self) -> None:
        """No faults any more."""
        for name, value in Faults().as_json().items():
            setattr(self, name, value)

    def as_json(self) -> dict[str, Any]:
        """Every fault with its value, as `merge` takes it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["statuses"] = {
            method: {f.name: getattr(status, f.name) for f in fields(status)}
            for method, status in self.statuses.items()
        }
        return values


_FAULT_NAMES = frozenset(f.name for f in fields(Faults))
_CHOICES: dict[str, tuple[str, ...]] = {
    "status_code": CONNECT_CODES,
    "refuse_credentials": ("", "unauthenticated", "permission_denied"),
}
_OPTIONAL_NUMBERS = frozenset(
    {
        "piece_bytes",
        "cut_after_bytes",
        "cut_after_messages",
        "end_after_bytes",
        "error_after_bytes",
        "status_after_bytes",
        "offset_value",
    }
)
_FLAGS = frozenset({"stall", "silent", "change_session", "hide_session", "data_after_error"})


def _checked(name: str, value: Any) -> Any:
    """The value as the fault's type."""
    if name not in _FAULT_NAMES:
        raise ValueError(f"no fault is called {name!r}")
    if name == "statuses":
        return _statuses(value)
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"{name}: one of {', '.join(map(repr, _CHOICES[name]))}")
    if not _has_type(name, value):
        raise ValueError(f"{name}: {value!r} has the wrong type")
    return value


def _has_type(name: str, value: Any) -> bool:
    if name in _FLAGS:
        return isinstance(value, bool)
    if name in _CHOICES or name == "error_code":
        return isinstance(value, str)
    if value is None:
        return name in _OPTIONAL_NUMBERS
    lowest = -UINT64_MAX if name == "offset_shift" else int(name == "piece_bytes")
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= UINT64_MAX


def _statuses(value: Any) -> dict[str, StatusFault]:
    if not isinstance(value, dict):
        raise ValueError("statuses: an object of method names is wanted")  # noqa: TRY004 - one type
    try:
        return {str(method): StatusFault(**status) for method, status in value.items()}
    except TypeError as error:
        raise ValueError(f"statuses: {error}") from error
