"""What is taken for a severity, and above all what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.severity import severity

SAID = [
    (b'{"level":"info","msg":"started"}', 9, b"info"),
    (b'{"time":"2026-01-02T03:04:05Z","n":-1.5e3,"ok":true,"level":"WARN"}', 13, b"WARN"),
    (b'{ "msg" : "a \\"quoted\\" word, {x}" , "severity" : "Error" }', 17, b"Error"),
    (b'{"levelname":"CRITICAL"}', 21, b"CRITICAL"),
    (b'{"level":"custom","severity":"notice"}', 10, b"notice"),
    (b"level=warn msg=slow", 13, b"warn"),
    (b'time=2026-01-02T03:04:05Z level="error" msg="it broke"', 17, b"error"),
    (b'ts=1 caller=main.go:7 msg="level=debug" lvl=fatal', 21, b"fatal"),
    (b"ERROR something broke", 17, b"ERROR"),
    (b"WARNING:root:careful", 13, b"WARNING"),
    (b"INFO", 9, b"INFO"),
    (b"INFO:     Started server process [1]", 9, b"INFO"),
    (b"\x1b[32mINFO\x1b[0m:     Started server process", 9, b"INFO"),
    (b"[error] it broke", 17, b"error"),
    (b"[ WARN ] it may break", 13, b"WARN"),
    (b"error: cannot find x", 17, b"error"),
    (b"Error: Cannot find module 'x'", 17, b"Error"),
    (b"panic: runtime error: index out of range", 21, b"panic"),
    (b"2026-01-02 03:04:05,678 - app.db - INFO - connected", 9, b"INFO"),
    (b"2026-01-02 03:04:05,678 - INFO - ERROR - connected", 9, b"INFO"),
    (b"2026-01-02T03:04:05.678Z DEBUG x", 5, b"DEBUG"),
    (b"[2026-01-02 03:04:05] [trace] x", 1, b"trace"),
    (b"2026/01/02 03:04:05 [error] 7#7: *1 open() failed", 17, b"error"),
    (b"W0102 03:04:05.678901       1 main.go:7] slow", 13, b"W"),
]

NOT_SAID = [
    b"",
    b"information wants to be free",
    b"there was an error: it broke",
    b"error: 0.25",
    b"ERROR: 3 %",
    b"Error:-1",
    b"errors: none",
    b"INFORMAL talk",
    b"info about it",
    b"no level=error here",
    b"level=errors",
    b"level=3",
    b'{"level":30,"msg":"pino"}',
    b'{"level":"informal"}',
    b'{"msg":"\\"level\\":\\"error\\""}',
    b'{"nested":{"level":"error"}}',
    b'{"items":["level"],"level":"error"}',
    b'{"msg":"a","b":"level", "c":"error"}',
    b"Warnings are good",
    b"I0102 is a name",
    b"\xff\xfeERROR",
    b" " * 2000 + b"ERROR",
    b'{"pad":"' + b"x" * 1100 + b'","level":"error"}',
]


@pytest.mark.parametrize(("text", "number", "written"), SAID)
def test_what_programs_write_on_purpose_is_recognised(
    text: bytes, number: int, written: bytes
) -> None:
    assert severity(text) == (number, written)


@pytest.mark.parametrize("text", NOT_SAID)
def test_what_may_mean_something_else_is_left_alone(text: bytes) -> None:
    assert severity(text) is None


@given(st.binary(max_size=200))
def test_any_bytes_can_be_asked_about(text: bytes) -> None:
    found = severity(text)
    assert found is None or (found[1] in text and found[1].isascii())


@pytest.mark.parametrize(
    "piece",
    [b'{"a":"', b'{"a":1,', b'"\\', b"a=b ", b'a="', b"[ ", b"\x1b[", b"2026-01-02 03:04:05 - "],
)
def test_a_hostile_line_takes_no_more_steps_than_it_has_bytes(piece: bytes) -> None:
    # Backtracking over a kilobyte would not come back; the suite's own time limit would tell.
    for _ in range(1_000):
        assert severity(piece + piece * 2_000) is None
        assert severity(b"{" + piece * 2_000) is None
