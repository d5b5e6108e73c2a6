"""Which numbers are taken: known from the disk, and never all of it in memory for ever."""

from __future__ import annotations

import pytest

from sinks.files.numbers import Numbers
from sinks.interface import SinkUnavailableError


class Disk:
    """Directories with the highest number of each name; counts how often they are read."""

    def __init__(self) -> None:
        self.directories: dict[str, dict[str, int]] = {}
        self.reads: list[str] = []

    def read(self, directory: str) -> dict[str, int]:
        self.reads.append(directory)
        return dict(self.directories.get(directory, {}))

    def put_away(self, numbers: Numbers, path: str, number: int) -> None:
        directory, _, name = path.rpartition("/")
        self.directories.setdefault(directory, {})[name] = number
        numbers.note(path, number)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr("sinks.files.numbers._REMEMBERED_NAMES", 10)
    return Disk()


def test_a_directory_is_read_once_and_then_told(disk: Disk) -> None:
    disk.directories["/x"] = {"a": 7}
    numbers = Numbers(disk.read)
    assert (numbers.highest("/x/a"), numbers.highest("/x/b")) == (7, 0)
    disk.put_away(numbers, "/x/b", 1)
    assert (numbers.highest("/x/a"), numbers.highest("/x/b")) == (7, 1)
    assert disk.reads == ["/x"]


def test_what_is_told_of_an_unknown_directory_does_not_hide_the_rest_of_it(disk: Disk) -> None:
    disk.directories["/x"] = {"a": 7}
    numbers = Numbers(disk.read)
    disk.put_away(numbers, "/x/b", 1)
    assert (numbers.highest("/x/a"), numbers.highest("/x/b")) == (7, 1)


def test_the_directory_used_longest_ago_is_forgotten_and_read_again(disk: Disk) -> None:
    numbers = Numbers(disk.read)
    for n in range(100):
        assert numbers.highest(f"/{n}/a") == 0
        disk.put_away(numbers, f"/{n}/a", n + 1)
        numbers.highest("/0/a")
        assert len(numbers) <= 12
    assert disk.reads == [f"/{n}" for n in range(100)]
    assert [numbers.highest(f"/{n}/a") for n in (99, 1, 0)] == [100, 2, 1]
    assert disk.reads[100:] == ["/1"]


def test_names_that_are_gone_from_the_disk_are_forgotten_in_the_end(disk: Disk) -> None:
    numbers = Numbers(disk.read)
    for n in range(1000):
        assert numbers.highest(f"/x/{n}") == 0
        disk.put_away(numbers, f"/x/{n}", 1)
        disk.directories["/x"].pop(f"{n - 3}", None)
        assert len(numbers) <= 10
    assert numbers.highest("/x/999") == 1


def test_a_large_directory_is_known_whole_and_seldom_read(disk: Disk) -> None:
    disk.directories["/x"] = {f"old-{n}": 5 for n in range(100)}
    numbers = Numbers(disk.read)
    for n in range(500):
        assert numbers.highest(f"/x/{n}") == 0
        disk.put_away(numbers, f"/x/{n}", 1)
    assert numbers.highest("/x/old-99") == 5
    assert len(disk.reads) == 3


def test_a_directory_that_cannot_be_read_is_not_taken_for_empty() -> None:
    errors = [SinkUnavailableError("not now")]

    def read(_: str) -> dict[str, int]:
        if errors:
            raise errors.pop()
        return {"a": 3}

    numbers = Numbers(read)
    with pytest.raises(SinkUnavailableError):
        numbers.highest("/x/a")
    assert numbers.highest("/x/a") == 3
