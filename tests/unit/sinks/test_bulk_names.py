"""Names of indices: what may be written, and that no value leaves the operator's prefix."""

from __future__ import annotations

import re

import pytest

from sinks.bulk.names import IndexName, IndexNameError, index_value

NOON_NS = 1_763_899_200_000_000_000
HOUR_NS = 3_600_000_000_000
VALUES = {"service": "trainer", "container": "main", "display_name": "", "sandbox_id": "sbx-1"}


def names(template: str, *stamps_ns: int, **values: str) -> list[str]:
    return list(IndexName.parse(template).column({**VALUES, **values}, stamps_ns))


def test_a_name_without_fields_is_the_same_for_every_line() -> None:
    assert names("logs-sandbox-default", 1, 2) == ["logs-sandbox-default"] * 2


def test_date_and_hour_are_those_of_each_line_in_utc() -> None:
    stamps_ns = [NOON_NS - 1, NOON_NS, NOON_NS + 1, NOON_NS + 12 * HOUR_NS, NOON_NS - 1]
    assert names("logs-{date}", *stamps_ns) == [
        "logs-2025.11.23",
        "logs-2025.11.23",
        "logs-2025.11.23",
        "logs-2025.11.24",
        "logs-2025.11.23",
    ]
    assert names("logs-{date}-{hour}", *stamps_ns)[:2] == [
        "logs-2025.11.23-11",
        "logs-2025.11.23-12",
    ]


def test_fields_may_touch_each_other() -> None:
    assert names("a{service}{container}z", 0) == ["atrainermainz"]


def test_a_name_s_pattern_matches_whatever_the_fields_become() -> None:
    assert IndexName.parse("logs-{service}-{date}").pattern == "logs-*-*"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Trainer", "trainer"),
        ("a/b c", "a_b_c"),
        ("*", "_"),
        ('<a"\\,#:?|>', "_a________"),
        ("\u00e9\n", "__"),
        ("..", ".."),
        ("", "unknown"),
        ("x" * 300, "x" * 64),
        ('","_id":"', "____id___"),
    ],
)
def test_a_value_is_made_safe(value: str, expected: str) -> None:
    assert index_value(value) == expected
    name = names("logs-{service}", 0, service=value)[0]
    assert re.fullmatch(r"logs-[a-z0-9._-]{1,64}", name)


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("", "begins with text of its own"),
        ("{service}", "begins with text of its own"),
        ("-logs", "begins with text of its own"),
        ("_logs", "begins with text of its own"),
        (".logs", "begins with text of its own"),
        ("Logs", "lower case"),
        ("logs/a", "lower case"),
        ("logs,a", "lower case"),
        ("logs*", "lower case"),
        ("logs a", "lower case"),
        ("logs-{", "lower case"),
        ("logs-}", "lower case"),
        ("logs-{servise}", r"did you mean \{service\}\?"),
        ("logs-{}", "unknown field"),
        ("x" * 256, "255 bytes"),
        ("logs{service}{service}{service}{service}", "255 bytes"),
    ],
)
def test_what_no_index_may_be_called_is_refused(template: str, what: str) -> None:
    with pytest.raises(IndexNameError, match=what):
        IndexName.parse(template)


def test_the_longest_name_is_taken() -> None:
    assert names("x" * 255, 0) == ["x" * 255]
