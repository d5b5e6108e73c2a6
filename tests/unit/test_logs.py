from __future__ import annotations

import gc
import io
import json
import logging
import os
import sys
import threading
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import structlog

from forwarder.logs import configure_logs, daemon_logs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging belongs to the process: put back what was there."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, _: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def events(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines(stream)]


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["d", "i", "w", "e"]),
        ("info", ["i", "w", "e"]),
        ("warning", ["w", "e"]),
        ("error", ["e"]),
    ],
)
def test_only_events_of_the_level_or_above_are_written(level: str, seen: list[str]) -> None:
    stream = io.StringIO()
    configure_logs(level=level, form="json", stream=stream)
    log = structlog.get_logger()
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [one["event"] for one in events(stream)] == seen


def test_an_event_for_machines_is_one_object_a_line_with_its_time_level_and_name_first() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)
    structlog.get_logger().bind(sink="archive").error("sink held", detail="no room")
    (event,) = events(stream)
    assert list(event) == ["timestamp", "level", "event", "sink", "detail"]
    assert (event["level"], event["event"], event["sink"]) == ("error", "sink held", "archive")
    assert str(event["timestamp"]).endswith("Z")


@pytest.mark.parametrize(("stream", "human"), [(io.StringIO(), False), (Terminal(), True)])
def test_who_reads_is_told_by_the_stream(stream: io.StringIO, human: bool) -> None:
    configure_logs(level="info", form="auto", stream=stream)
    structlog.get_logger().info("started")
    assert lines(stream)[0].startswith("{") != human


def test_a_stream_that_was_closed_is_no_terminal_and_no_trouble() -> None:
    stream = io.StringIO()
    stream.close()
    configure_logs(level="info", form="auto", stream=stream)
    structlog.get_logger().info("nobody hears it")


def test_a_daemon_does_not_die_of_a_log_that_nobody_can_read() -> None:
    configure_logs(level="info", form="json", stream=Gone())
    structlog.get_logger().info("one")
    logging.getLogger("library").error("two")


HOSTILE = [
    "a\n2026-01-02T03:04:05Z [error    ] forged",
    "a\r\nforged",
    "\x1b[2J\x1b]0;title\x07",
    "a\u2028b",
    "\u202eright to left",
    "\x9b31m",
    "zero\u200bwidth",
]


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_forges_no_line_and_steers_no_terminal(form: str, text: str) -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json" if form == "json" else "console", stream=stream)
    structlog.get_logger().info(text, sandbox=text, tags=[text], known={text: text})
    logging.getLogger("library").warning("it said %s", text)
    out = stream.getvalue()
    assert out.count("\n") == 2
    assert all(one.isprintable() for one in out.split("\n"))


def fail(message: str) -> None:
    api_key = "secret" * 2
    raise LookupError(message if api_key else "")


def told(form: str, message: str) -> str:
    """What is written of an error, by ourselves and by a library."""
    stream = io.StringIO()
    configure_logs(level="info", form="json" if form == "json" else "console", stream=stream)
    try:
        fail(message)
    except LookupError as error:
        structlog.get_logger().error("met trouble", exc_info=error)
        logging.getLogger("library").exception("so did we")
    return stream.getvalue()


@pytest.mark.parametrize("form", ["console", "json"])
def test_an_error_is_told_with_where_it_came_from_but_never_with_what_variables_held(
    form: str,
) -> None:
    out = told(form, "a bug")
    assert out.count("a bug") == 2
    assert out.count("test_logs.py") >= 2
    assert "secretsecret" not in out


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("text", HOSTILE)
def test_an_errors_message_forges_no_line_either(form: str, text: str) -> None:
    out = told(form, text)
    assert all(one.isprintable() for one in out.split("\n"))
    events = [line for line in out.split("\n") if line and not line.startswith("    ")]
    assert len(events) == 2


def test_libraries_are_heard_in_the_same_form_and_the_chatty_ones_only_when_they_warn() -> None:
    stream = io.StringIO()
    configure_logs(level="debug", form="json", stream=stream)
    logging.getLogger("library").info("heard")
    logging.getLogger("library").debug("too much")
    logging.getLogger("httpx").info("GET https://example.invalid/?key=secret")
    logging.getLogger("httpx").warning("heard too")
    assert [one["event"] for one in events(stream)] == ["heard", "heard too"]


def test_configuring_again_replaces_what_was() -> None:
    first, second = io.StringIO(), io.StringIO()
    for stream in (first, second):
        configure_logs(level="info", form="json", stream=stream)
    structlog.get_logger().info("one")
    logging.getLogger("library").warning("two")
    assert lines(first) == []
    assert len(lines(second)) == 2


def test_a_library_is_named_and_its_own_levels_are_known_by_the_next_lower_one() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)
    logging.getLogger("library").log(25, "notice")
    logging.getLogger("library").log(60, "alarm")
    told = [(one["logger"], one["level"], one["event"]) for one in events(stream)]
    assert told == [("library", "info", "notice"), ("library", "critical", "alarm")]


def test_a_librarys_message_whose_arguments_do_not_fit_is_told_as_it_stands() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)
    logging.getLogger("library").info("%d of %d", 1)  # noqa: PLE1206 - that is the point
    assert [one["event"] for one in events(stream)] == ["%d of %d"]


# A daemon's log -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_daemons_log_reads_like_any_other(form: str) -> None:
    streams = (io.StringIO(), io.StringIO())

    def talk() -> None:
        structlog.get_logger().bind(sink="archive").error("sink held", detail="no\nroom")
        logging.getLogger("library").warning("it said %s", "so")
        with suppress(LookupError):
            try:
                fail("a bug")
            except LookupError:
                structlog.get_logger().exception("met trouble")
                raise

    configure_logs(level="info", form="json" if form == "json" else "console", stream=streams[0])
    talk()
    with daemon_logs(level="info", form="json" if form == "json" else "console", stream=streams[1]):
        talk()
    direct, threaded = (
        [line.partition("Z")[2] for line in stream.getvalue().splitlines()] for stream in streams
    )
    assert threaded == direct
    assert "secretsecret" not in streams[1].getvalue()


def full_pipe() -> tuple[int, int]:
    """The ends of a pipe that has no room; writing to it blocks."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return reader, writer


def test_a_pipe_that_nobody_reads_holds_up_no_daemon() -> None:
    reader, writer = full_pipe()
    stream = os.fdopen(writer, "w")
    with stream, daemon_logs(level="info", form="json", stream=stream) as log:
        for number in range(10_000):
            structlog.get_logger().info("talk", number=number)
        assert not log.close(0.01)
        os.close(reader)  # sets the thread free, too: the pipe is broken
        assert log.close()


def test_a_pipe_that_is_read_again_brings_what_waited_and_how_much_was_lost() -> None:
    reader, writer = full_pipe()
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "w") as stream:
        with daemon_logs(level="info", form="json", stream=stream):
            for number in range(10_000):
                structlog.get_logger().info(f"talk {number}")
            drain = threading.Thread(target=lambda: read.append(source.read()))
            read: list[bytes] = []
            drain.start()
        stream.close()
        drain.join()
    told = [json.loads(line) for line in read[0].lstrip(b"\0").splitlines()]
    talk = [one for one in told if one["event"].startswith("talk")]
    (lost,) = [one for one in told if one["event"] == "log events lost: nobody read"]
    left_out = sum(one.get("more_like_this", 0) for one in told)
    assert len(talk) + left_out + lost["lost"] == 10_000
    assert (lost["level"], lost["timestamp"][-1]) == ("warning", "Z")


@pytest.mark.parametrize("close", [True, False])
def test_a_stream_that_is_closed_or_broken_ends_no_daemon(close: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        if close:
            stream.close()
        with daemon_logs(level="info", form="auto", stream=stream) as log:
            structlog.get_logger().info("one")
            logging.getLogger("library").error("two")
            assert log.close()


def test_a_descriptor_that_does_not_block_loses_nothing_all_the_same() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    texts = [f"{number} " + "x" * 5000 for number in range(15)]
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "w") as stream:
        with daemon_logs(level="info", form="json", stream=stream):
            for text in texts:
                structlog.get_logger().info("talk", text=text)
            read: list[bytes] = []
            drain = threading.Thread(target=lambda: read.append(source.read()))
            drain.start()
        stream.close()
        drain.join()
    assert [json.loads(line)["text"] for line in read[0].splitlines()] == texts


class Unraisable:
    def __del__(self) -> None:
        raise LookupError("while being forgotten")


def test_what_python_itself_would_print_is_logged() -> None:
    stream = io.StringIO()
    hooks = (sys.unraisablehook, threading.excepthook)
    with daemon_logs(level="info", form="json", stream=stream):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        thread = threading.Thread(target=fail, args=["in a thread"], name="worker")
        thread.start()
        thread.join()
        Unraisable()
        gc.collect()
    text = stream.getvalue()
    told = [one["event"] for one in events(stream)]
    assert told[1:] == ["thread met a bug and ended", "error that nobody could catch"]
    assert all(words in text for words in ("old", "in a thread", "while being forgotten"))
    assert (sys.unraisablehook, threading.excepthook) == hooks
