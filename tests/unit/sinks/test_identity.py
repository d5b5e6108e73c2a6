"""Record ids: one for each record, and the same one at every resend."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sinks.identity import id_prefix, id_suffix, record_ids
from sinks.interface import Slice, Stream
from sinks.testing import end_of, gap_of, slice_of


@dataclass(frozen=True)
class One:
    """All that makes a record this one and no other."""

    sandbox_id: str
    container: str
    generation: int
    line: int
    part: int = 0
    gap_filled_ns: int | None = None
    ended_ns: int | None = None

    @property
    def slice(self) -> Slice:
        stream = Stream(self.sandbox_id, self.container)
        if self.gap_filled_ns is not None:
            return gap_of(
                stream=stream,
                first_line=self.line,
                filled_ns=self.gap_filled_ns,
                generation=self.generation,
            )
        if self.ended_ns is not None:
            return end_of(
                stream=stream,
                first_line=self.line,
                ended_ns=self.ended_ns,
                generation=self.generation,
            )
        return slice_of(
            [(1, b"x")],
            stream=stream,
            first_line=self.line,
            part=self.part,
            generation=self.generation,
        )


names = st.one_of(
    st.text(st.sampled_from("ab/.~-0123gapend"), min_size=1, max_size=8),
    st.text(min_size=1, max_size=8),
    st.text(st.sampled_from("aé"), min_size=190, max_size=260),
)
numbers = st.one_of(st.integers(0, 12), st.integers(0, 2**63 - 1))
lines = st.builds(One, names, names, numbers, numbers, st.one_of(st.just(0), numbers))
gaps = st.builds(One, names, names, numbers, numbers, gap_filled_ns=numbers)
ends = st.builds(One, names, names, numbers, numbers, ended_ns=numbers)
records = st.one_of(lines, gaps, ends)


@given(records, records)
def test_different_records_have_different_ids(one: One, other: One) -> None:
    assert (record_ids(one.slice) == record_ids(other.slice)) == (one == other)


@given(records)
def test_an_id_is_short_ascii_without_spaces(one: One) -> None:
    (found,) = record_ids(one.slice)
    assert len(found) <= 500
    assert all("!" <= character <= "~" for character in found)


@given(st.integers(0, 99), st.integers(0, 9), st.integers(1, 9))
def test_a_records_id_does_not_depend_on_what_it_is_sent_with(
    first: int, before: int, count: int
) -> None:
    whole = slice_of([(n, b"x") for n in range(before + count)], first_line=first)
    rest = slice_of([(n, b"x") for n in range(count)], first_line=first + before)
    assert record_ids(whole)[before:] == record_ids(rest)


def test_ids_read_as_documented() -> None:
    stream = Stream("sbx-1", "my app")
    source = slice_of([(1, b"x"), (2, b"y")], stream=stream, first_line=41, generation=2)
    assert record_ids(source) == ["sbx-1/my~20app/2/41", "sbx-1/my~20app/2/42"]
    assert id_prefix(source) == "sbx-1/my~20app/2/"
    part = slice_of([(1, b"x")], part=3)
    assert record_ids(part) == ["sbx-1/main/0/0.3"]
    assert (id_suffix(part), id_suffix(source)) == (".3", "")


def test_a_gap_that_is_taken_back_is_a_record_of_its_own() -> None:
    told, again, back = gap_of(), gap_of(), gap_of(filled_ns=5)
    assert record_ids(told) == record_ids(again) != record_ids(back)
    assert record_ids(told)[0].startswith("sbx-1/main/0/0.gap-")
    assert record_ids(end_of())[0].startswith("sbx-1/main/0/0.end-")
