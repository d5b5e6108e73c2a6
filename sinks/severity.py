r"""How severe a line is, where its text says so in one of the common ways. Pure.

Recognised is what programs write on purpose, at the beginning of a line:

- JSON: a member such as `"level":"warn"` of the outermost object, behind none but plain members;
- logfmt: `level=warn`, in a line that begins with `key=value`;
- a word: `WARN ...`, `[warn] ...`, `warning: ...`, `WARNING:root:...`, all of them also behind a
  time stamp, or a time stamp and a logger's name (`2026-01-02 03:04:05,678 - app - WARN - ...`);
- klog: `W0102 03:04:05.678901 ...`.

A line is never looked at further than its first kilobyte. When in doubt there is no severity:
`error: 0.25` is a figure, numeric levels mean different things to different libraries, and a word
in the middle of a sentence is a word.
"""

from __future__ import annotations

import re

_LOOKED_AT_BYTES = 1_024

#: The specification's numbers, by what is written.
_NUMBERS = {
    b"trace": 1,
    b"debug": 5,
    b"info": 9,
    b"information": 9,
    b"notice": 10,
    b"warn": 13,
    b"warning": 13,
    b"err": 17,
    b"error": 17,
    b"crit": 21,
    b"critical": 21,
    b"fatal": 21,
    b"panic": 21,
    # klog's letters
    b"i": 9,
    b"w": 13,
    b"e": 17,
    b"f": 21,
}

_PARTS = {
    "WORD": rb"((?i:trace|debug|information|info|notice|warning|warn|error|err|critical|crit"
    rb"|fatal|panic))",
    "CAPITALS": rb"(TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|CRIT|FATAL)",
    "KEY": rb"(?:level|lvl|loglevel|levelname|log\.level|severity|severity_text)",
    "STRING": rb'"(?:[^"\\]|\\.)*+"',
    "STAMP": rb"\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d++)?+"
    rb"(?:Z|[+-]\d\d:?\d\d)?+\]?",
    "COLOUR": rb"(?:\x1b\[[\d;]*+m)*+",
}

_FORMS = (
    # {"time":"...","level":"warn"
    rb'\{\s*+(?:STRING\s*+:\s*+(?:STRING|[-+.\w]++)\s*+,\s*+)*?"KEY"\s*+:\s*+"WORD"',
    # time=... level=warn
    rb'(?:[\w.@/-]++=(?:STRING|[^\s"=]*+)[ \t]++)*?KEY=(?:"WORD"|WORD(?![^\s]))',
    # W0102 03:04:05.678901
    rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d",
    # 2026-01-02 03:04:05,678 - app - WARN - ..., [warn] ..., WARN ..., warning: ...
    (
        rb"(?:STAMP[ |:-]++(?:[\w.]++ - )??)?"
        rb"(?:\[\s*+COLOURWORD\s*+COLOUR\]"
        rb"|COLOURCAPITALSCOLOUR(?=[\s:|,\]-]|\Z)(?!:\s*+[-+.]?\d)"
        rb"|COLOURWORDCOLOUR:(?!\s*+[-+.]?\d)(?=\s|\w|\Z))"
    ),
)


def _compiled() -> re.Pattern[bytes]:
    pattern = b"|".join(_FORMS)
    for name, part in _PARTS.items():
        pattern = pattern.replace(name.encode(), part)
    return re.compile(pattern)


_match = _compiled().match


def severity(text: bytes) -> tuple[int, bytes] | None:
    """The severity number of OpenTelemetry, and the text as written; None when there is none."""
    found = _match(text, 0, _LOOKED_AT_BYTES)
    if found is None or found.lastindex is None:
        return None
    written: bytes = found[found.lastindex]
    return _NUMBERS[written.lower()], written
