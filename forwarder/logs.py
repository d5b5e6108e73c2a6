"""The program's own log: one event a line, on standard error, for people or for machines."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

from forwarder.log_thread import LogThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from forwarder.log_limit import Event

Form = Literal["auto", "console", "json"]

#: Libraries that log addresses, headers or every request below this level.
_QUIET = ("httpx", "httpcore", "aiohttp", "asyncio", "uvicorn", "hypercorn", "grpc", "tenacity")

_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)

#: What an event is given where it happens.
_GIVEN: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    _stamp,
)


def configure_logs(*, level: str, form: Form, stream: TextIO | None = None) -> None:
    """Set up structlog, and the standard library's logging to come out the same way.

    Every event is written before the call that logs it returns; see `daemon_logs` for what must
    not wait.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        form: `console` for people, `json` for machines, `auto` by what the stream is.
        stream: Standard error when not given.
    """
    stream = stream if stream is not None else sys.stderr
    quiet = _Quiet(stream)

    def write(line: str) -> None:
        quiet.write(f"{line}\n")
        quiet.flush()

    _configure(level, [*_GIVEN, *_rendering(form, stream)], write)


@contextlib.contextmanager
def daemon_logs(
    *,
    level: str,
    form: Form,
    stream: TextIO | None = None,
    now_s: Callable[[], float] = time.monotonic,
) -> Iterator[LogThread]:
    """The same for a process that must go on whether or not anybody reads its log.

    Logging never waits and never raises: a thread writes. Events of one kind come in limited
    numbers (see `LogLimit`). What Python itself would print, such as warnings and the tracebacks
    of threads, becomes events. At the end what waits is written, for a bounded time.

    Args:
        level: As for `configure_logs`.
        form: The same.
        stream: The same.
        now_s: A clock that never goes back.
    """
    stream = stream if stream is not None else sys.stderr
    rendering = [_late_stamp, *_rendering(form, stream)]

    def render(event: Event) -> str:
        line: Any = dict(event)
        for processor in rendering:
            line = processor(None, event["level"], line)
        return str(line)

    log = LogThread(render, _writer(stream), now_s=now_s)
    _configure(level, [*_GIVEN, _keep_error, _as_argument], log.offer)
    try:
        with _python_logs():
            yield log
    finally:
        log.close()


def _configure(
    level: str, processors: list[structlog.typing.Processor], write: Callable[[Any], None]
) -> None:
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Logger(write),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Foreign()]
    root.setLevel(max(number, logging.INFO))
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _rendering(form: Form, stream: TextIO) -> list[structlog.typing.Processor]:
    """What makes an event a line."""
    if form == "console" or (form == "auto" and _is_terminal(stream)):
        console = structlog.dev.ConsoleRenderer(
            colors=_is_terminal(stream), pad_event_to=28, exception_formatter=_write_traceback
        )
        return [_one_line, _in_order, console]
    # Never with local variables, as is the default: there are keys among them.
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        _one_line,
        _in_order,
        structlog.processors.ExceptionRenderer(transformer),
        structlog.processors.JSONRenderer(default=str),
    ]


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


# Processors ---------------------------------------------------------------------------------------


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how bad and what come first: that is how a log is read."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _one_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An event is one physical line: what others wrote must not forge another one."""
    for key, value in event.items():
        if isinstance(value, str) and key not in {"exception", "stack"}:
            event[key] = _printable(value)
    return event


def _keep_error(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The thread that renders does not know which error is being handled in this one."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event


def _late_stamp(_: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Events that the log makes itself have no time yet."""
    return event if "timestamp" in event else _stamp(None, name, event)


def _as_argument(_: Any, __: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any], Event]:
    """Hand the event over as it is."""
    return (event,), {}


def _write_traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """For people: indented, so that no line of a foreign message passes for an event."""
    lines = "".join(traceback.format_exception(*exc_info)).split("\n")
    stream.writelines(f"\n    {_printable(line)}" for line in lines if line)


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


# Where events come from ---------------------------------------------------------------------------


class _Logger:
    """What structlog hands a finished event to."""

    def __init__(self, write: Callable[[Any], None]) -> None:
        self.msg = write
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = write


class _Foreign(logging.Handler):
    """Makes what libraries log events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log it, with the library's name."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError, LookupError):  # its arguments do not fit its text
            text = str(record.msg)
        fields: Event = {"logger": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        structlog.get_logger().log(_known_level(record.levelno), text, **fields)


def _known_level(number: int) -> int:
    """The next lower of the five levels: libraries may have their own."""
    return min(max(number // 10 * 10, logging.DEBUG), logging.CRITICAL)


@contextlib.contextmanager
def _python_logs() -> Iterator[None]:
    """What Python would print on standard error is logged instead."""
    hooks = (sys.unraisablehook, threading.excepthook)
    log = structlog.get_logger()

    def unraisable(args: Any) -> None:
        log.error(
            "error that nobody could catch", exc_info=args.exc_value, of=type(args.object).__name__
        )

    def thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else ""
        log.error("thread met a bug and ended", exc_info=args.exc_value, thread=name)

    logging.captureWarnings(capture=True)
    sys.unraisablehook, threading.excepthook = unraisable, thread
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks
        logging.captureWarnings(capture=False)


# Where they go ------------------------------------------------------------------------------------


class _Quiet:
    """A stream that cannot fail: a program does not die of its own log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or lose the text when nobody can read it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _writer(stream: TextIO) -> Callable[[str], None]:
    """Writes a line however long that takes, or loses it when it cannot be written.

    To the descriptor, if there is one: a thread that hangs in a buffered write holds that buffer's
    lock, and Python aborts when it finds it held at its end.
    """
    try:
        descriptor = stream.fileno()
    except (io.UnsupportedOperation, ValueError):
        return _Quiet(stream).write
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(text: str) -> None:
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        with contextlib.suppress(OSError):
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:  # somebody who shares the descriptor wants it so
                    poll.poll()

    return write
