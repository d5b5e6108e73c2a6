"""Sizes, durations, paths and secrets: how they are written and what they are."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sinks.settings import (
    ByteSize,
    Duration,
    LocalPath,
    Secret,
    SecretSource,
    SecretUnavailableError,
    Section,
    Within,
    format_byte_size,
    format_duration,
    parse_byte_size,
    parse_duration,
)


class Values(Section):
    """One of each."""

    size: ByteSize = 0
    delay: Annotated[Duration, Within("10ms", "1s")] = 0.5
    path: LocalPath = Path("/")
    secret: Secret = Secret("x")


@given(st.integers(min_value=0, max_value=10**12 - 1))
def test_a_size_reads_back_as_it_was_written(size_bytes: int) -> None:
    assert parse_byte_size(format_byte_size(size_bytes)) == size_bytes


@given(
    st.integers(min_value=1, max_value=2**20),
    st.sampled_from(["B", "kB", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"]),
)
def test_a_size_of_any_unit_reads_back(count: int, unit: str) -> None:
    size_bytes = parse_byte_size(f"{count}{unit}")

    assert parse_byte_size(format_byte_size(size_bytes)) == size_bytes
    assert len(format_byte_size(size_bytes)) <= len(f"{count}{unit}") + 1


@given(st.floats(min_value=0.0, max_value=1e9).map(lambda value: round(value, 9)))
def test_a_duration_reads_back_as_it_was_written(duration_s: float) -> None:
    assert parse_duration(format_duration(duration_s)) == duration_s


@given(st.integers(min_value=0, max_value=10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_of_any_unit_reads_back(count: int, unit: str) -> None:
    duration_s = parse_duration(f"{count}{unit}")

    assert parse_duration(format_duration(duration_s)) == duration_s


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_byte_size(text) >= 0


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_duration(text) >= 0


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0B", 0), ("64MiB", 67_108_864), ("1GB", 10**9), ("1.5 KiB", 1536), ("1kB", 1000)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_byte_size(text) == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0B"), (1024, "1KiB"), (1000, "1kB"), (1023, "1023B"), (67_108_864, "64MiB")],
)
def test_sizes_are_written_with_the_largest_unit(size_bytes: int, text: str) -> None:
    assert format_byte_size(size_bytes) == text


@pytest.mark.parametrize(
    "text", ["", "64", "64 mb", "-1B", "+1B", "1e3B", "1,5kB", "٣B", "1B\n", "1  B", "MiB", "1.B"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size with a unit"):
        parse_byte_size(text)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("0s", 0.0), ("250ms", 0.25), ("1.5s", 1.5), ("5m", 300.0), ("2h", 7200.0), ("7d", 604_800.0)],
)
def test_durations(text: str, duration_s: float) -> None:
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.0, "0s"),
        (0.05, "50ms"),
        (60.0, "1m"),
        (90.0, "90s"),
        (86_400.0, "1d"),
        (1e-7, "0.0000001s"),
    ],
)
def test_durations_are_written_with_the_largest_unit(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


@pytest.mark.parametrize("text", ["", "5", "5 sec", "-5s", "1h30m", "inf", "1e3s", "5S", "5M"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration with a unit"):
        parse_duration(text)


def test_python_code_may_give_plain_numbers() -> None:
    values = Values(size=5, delay=0.25)

    assert (values.size, values.delay) == (5, 0.25)
    assert values.model_dump(mode="json")["delay"] == "250ms"


def test_the_bounds_of_a_value_belong_to_it() -> None:
    assert Values(delay=0.01).delay == 0.01
    assert Values(delay=1.0).delay == 1.0
    for delay in (0.009, 1.001):
        with pytest.raises(ValidationError, match="must be between 10ms and 1s"):
            Values(delay=delay)


@pytest.mark.parametrize("path", ["", "~", "~user/x", "a\0b"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValidationError):
        Values(path=Path(path))


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("canary")

    assert secret.reveal() == "canary"
    assert "canary" not in f"{secret} {secret!r} {secret!s} {[secret]} {Values(secret=secret)!r}"
    assert "canary" not in str(Values(secret=secret).model_dump())


def test_secrets_are_compared_and_copied_by_their_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert copy.deepcopy(Secret("a")).reveal() == "a"


def test_a_secret_may_be_given_as_text_but_not_empty() -> None:
    assert Values.model_validate({"secret": "a"}).secret == Secret("a")
    with pytest.raises(ValidationError, match="must not be empty"):
        Values.model_validate({"secret": " "})


def test_a_secret_source_reads_its_value_or_its_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" of the file\n")

    assert SecretSource("token", Secret(" as given"), None).read() == " as given"
    assert SecretSource("token_file", None, file).read() == "of the file"
    assert SecretSource("token", None, None).read() == ""


def test_a_secret_that_cannot_be_read_is_named_by_its_key(tmp_path: Path) -> None:
    file = tmp_path / "secret"

    with pytest.raises(SecretUnavailableError) as caught:
        SecretSource("token_file", None, file).read()

    assert str(caught.value) == f"token_file: {file}: No such file or directory"
