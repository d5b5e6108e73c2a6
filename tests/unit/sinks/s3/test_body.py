"""Part of a file as the body of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sinks.interface import SinkUnavailableError
from tests.fakes.s3_store import file_part

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK_BYTES = 256 * 1024


async def test_a_part_comes_in_blocks_and_ends_where_it_should(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3000
    part = file_part(tmp_path / "f", content, 100, 600_000)
    blocks = [block async for block in part.blocks()]
    assert b"".join(blocks) == content[100:600_100]
    assert max(map(len, blocks)) == _BLOCK_BYTES


async def test_an_empty_part_has_no_blocks(tmp_path: Path) -> None:
    part = file_part(tmp_path / "f", b"content", 3, 0)
    assert [block async for block in part.blocks()] == []


async def test_a_file_that_was_cut_is_no_body(tmp_path: Path) -> None:
    part = file_part(tmp_path / "f", b"x" * (_BLOCK_BYTES + 10))
    (tmp_path / "f").write_bytes(b"x" * _BLOCK_BYTES)
    with pytest.raises(SinkUnavailableError, match="shorter than it was"):
        [block async for block in part.blocks()]


async def test_a_file_that_is_gone_is_no_body(tmp_path: Path) -> None:
    part = file_part(tmp_path / "f", b"x")
    (tmp_path / "f").unlink()
    with pytest.raises(SinkUnavailableError, match="No such file"):
        [block async for block in part.blocks()]
