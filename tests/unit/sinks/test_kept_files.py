"""Which of the files that were put away are kept, compressed, and deleted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sinks.files.kept import KeptFiles
from sinks.files.rotation import PutAway, Rotation


def keeping(*, count: int | None = None, age_ns: int = 0) -> Rotation:
    return Rotation(1, 0, at_end=False, compression="none", keep_count=count, keep_age_ns=age_ns)


def file(number: int, until_ns: int = 0, path: str = "/x/a.log") -> PutAway:
    return PutAway(path, number, until_ns)


def numbers(files: list[PutAway]) -> list[int]:
    return sorted(file.number for file in files)


def test_each_path_keeps_its_newest_files() -> None:
    kept = KeptFiles(keeping(count=2), [file(n) for n in (3, 1, 10, 2)])
    kept.put(file(1, path="/x/b.log"))
    assert numbers(kept.surplus(0)) == [1, 2]
    kept.forget(file(1))
    assert numbers(kept.surplus(0)) == [2]
    kept.forget(file(2))
    assert kept.surplus(0) == []
    kept.put(file(11))
    assert numbers(kept.surplus(0)) == [3]


def test_files_are_surplus_until_they_are_deleted_and_named_once() -> None:
    kept = KeptFiles(keeping(count=1, age_ns=10), [file(1, 5), file(2, 6)])
    for _ in range(2):
        assert numbers(kept.surplus(16)) == [1]
    for _ in range(2):
        assert numbers(kept.surplus(17)) == [1, 2]


def test_files_become_too_old_in_the_order_of_their_lines_and_never_without_a_time() -> None:
    kept = KeptFiles(keeping(age_ns=10), [file(1, 7), file(2, 5), file(3)])
    assert not kept.any_aged(15)
    assert kept.any_aged(16)
    assert numbers(kept.surplus(16)) == [2]
    assert not kept.any_aged(16)  # told already
    assert numbers(kept.surplus(10**9)) == [1, 2]


def test_without_an_age_no_file_is_too_old() -> None:
    kept = KeptFiles(keeping(count=5), [file(1, 1)])
    assert not kept.any_aged(10**18)
    assert kept.surplus(10**18) == []


def test_a_file_that_was_forgotten_is_never_too_old() -> None:
    kept = KeptFiles(keeping(age_ns=10), [file(1, 5), file(2, 6)])
    kept.forget(file(1, 5))
    assert numbers(kept.surplus(100)) == [2]
    kept.forget(file(2, 6))
    assert kept.surplus(100) == []
    assert len(kept) == 0


def test_a_file_under_a_number_that_is_given_out_again_is_as_old_as_it_is() -> None:
    kept = KeptFiles(keeping(age_ns=10), [file(1, 5)])
    assert numbers(kept.surplus(16)) == [1]
    kept.put(file(1, 14))
    assert kept.surplus(24) == []
    kept.put(file(1, 16))
    assert kept.surplus(26) == []
    kept.put(file(1, 20))
    assert kept.surplus(28) == []
    assert numbers(kept.surplus(31)) == [1]


def test_a_file_is_to_be_packed_until_it_is() -> None:
    kept = KeptFiles(keeping(count=5), [file(1), replace(file(2), pack="zstd")])
    assert numbers(kept.unpacked()) == [2]
    kept.put(file(2))
    assert kept.unpacked() == []


@pytest.mark.parametrize("age_ns", [0, 10])
def test_no_more_is_remembered_than_there_are_files(age_ns: int) -> None:
    kept = KeptFiles(keeping(count=1, age_ns=age_ns))
    for n in range(1, 5000):
        kept.put(file(n, until_ns=n))
        for one in kept.surplus(newest_ns=1):  # time stands still: all go by their count
            kept.forget(one)
        assert len(kept) < 1100
    assert numbers(kept.surplus(10**9)) == ([4999] if age_ns else [])
