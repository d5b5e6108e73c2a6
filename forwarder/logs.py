"""The program's own log: one event a line, on standard error, for people or for machines."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

#: Libraries that log addresses, headers or every request below this level.
_QUIET = ("httpx", "httpcore", "aiohttp", "asyncio", "uvicorn", "hypercorn", "grpc", "tenacity")


def configure_logs(
    *, level: str, form: Literal["auto", "console", "json"], stream: TextIO | None = None
) -> None:
    """Set up structlog, and the standard library's logging to come out the same way.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        form: `console` for people, `json` for machines, `auto` by what the stream is.
        stream: Standard error when not given.
    """
    stream = stream if stream is not None else sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    human = form == "console" or (form == "auto" and _is_terminal(stream))
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=_is_terminal(stream), pad_event_to=28, exception_formatter=_write_traceback
            )
        ]
        if human
        else [
            # Never with local variables, as is the default: there are keys among them.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(default=str),
        ]
    )
    structlog.configure(
        processors=[*shared, _one_line, _in_order, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_WriterFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_Quiet(stream))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _one_line,
                _in_order,
                *renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


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


def _write_traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """For people: indented, so that no line of a foreign message passes for an event."""
    lines = "".join(traceback.format_exception(*exc_info)).split("\n")
    stream.writelines(f"\n    {_printable(line)}" for line in lines if line)


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


class _Quiet:
    """A stream that cannot fail: a daemon does not die of its own log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose the text when nobody can read it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


class _WriterFactory:
    """Makes structlog's loggers write to one stream, a whole line at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = _Quiet(stream)

    def __call__(self, *_: Any) -> _LineLogger:
        return _LineLogger(self._stream)


class _LineLogger:
    def __init__(self, stream: _Quiet) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        """Write one event."""
        self._stream.write(f"{message}\n")
        self._stream.flush()

    debug = info = warning = error = critical = exception = msg
