"""SQLite does not notice a flipped bit in a value: every frame carries its own checksum."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.model import FrameDraft, FrameKind
from forwarder.spool.frames import COLUMNS, FrameDamagedError, numbered, pack, unpack
from tests.unit.spool.builders import commit, frame

if TYPE_CHECKING:
    from forwarder.spool.frames import FrameRow

integers = st.integers(0, 2**63 - 1)


def row_of(draft: FrameDraft) -> FrameRow:
    (packed,) = pack(commit(3, draft))
    return (
        17,
        3,
        draft.kind,
        len(draft.raw),
        draft.first_line,
        draft.lines,
        draft.part,
        draft.first_stamp_ns,
        draft.last_stamp_ns,
        draft.high_stamp_ns,
        draft.received_ns,
        99,
        numbered(packed.checksum, 17, 99),
        packed.data,
        draft.generation,
    )


@given(
    st.builds(
        FrameDraft,
        kind=st.sampled_from(FrameKind),
        raw=st.binary(max_size=300),
        first_line=integers,
        lines=integers,
        part=integers,
        first_stamp_ns=integers,
        last_stamp_ns=integers,
        high_stamp_ns=integers,
        received_ns=integers,
        generation=integers,
    )
)
def test_a_frame_comes_back_as_it_went_in(draft: FrameDraft) -> None:
    found = unpack(row_of(draft))
    assert (found.id, found.stream_id, found.total_lines) == (17, 3, 99)
    for name in ("kind", "raw", "first_line", "lines", "part", "first_stamp_ns", "generation"):
        assert getattr(found, name) == getattr(draft, name)
    assert (found.last_stamp_ns, found.received_ns) == (draft.last_stamp_ns, draft.received_ns)


@pytest.mark.parametrize("column", COLUMNS.split(", "))
def test_one_changed_bit_in_any_column_is_noticed(column: str) -> None:
    row: list[Any] = list(row_of(frame(b"precious\n" * 9, line=4, lines=9)))
    index = COLUMNS.split(", ").index(column)
    value = row[index]
    row[index] = bytes([value[0] ^ 1, *value[1:]]) if isinstance(value, bytes) else value ^ 1
    with pytest.raises(FrameDamagedError, match="does not match its checksum"):
        unpack(cast("FrameRow", tuple(row)))


def test_a_payload_that_cannot_be_decompressed_is_noticed() -> None:
    """Only with a checksum that was made for it does it get so far."""
    row = row_of(frame(b"text\n"))
    junk = b"no compressed data"
    checksum = zlib.crc32(junk, zlib.crc32(struct.pack("<10q", *row[1:11])))
    with pytest.raises(FrameDamagedError, match="cannot be decompressed"):
        unpack((*row[:12], numbered(checksum, 17, 99), junk, 0))


def test_a_value_that_has_become_one_of_another_type_is_damage() -> None:
    row: list[Any] = list(row_of(frame(b"text\n")))
    row[4] = "4"
    with pytest.raises(FrameDamagedError, match="does not match its checksum"):
        unpack(cast("FrameRow", tuple(row)))
