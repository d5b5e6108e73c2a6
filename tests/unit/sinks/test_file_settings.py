"""Which settings of the file sink are refused, because two files would become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from sinks.files.settings import FileSettings

if TYPE_CHECKING:
    from pathlib import Path


def file_settings(path: str, *, rotates: bool) -> FileSettings:
    rotate = {"at_end": True} if rotates else {}
    return FileSettings.model_validate({"path": path, "rotate": rotate})


@pytest.mark.parametrize(
    "path",
    [
        "/x/{display_name}",
        "/x/{sandbox_id}/{container}",
        "/x/{date}-{display_name}",
        "/x/{display_name}{hour}",
        "/x/{display_name}.000001",
        "/x/{display_name}.1234567",
        "/x/{display_name}.gz",
        "/x/{display_name}.zst",
        "/x/{display_name}.partial",
    ],
)
def test_a_path_that_could_be_the_name_of_a_file_that_was_put_away_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"must end in text of its own, such as \.log"):
        file_settings(path, rotates=True)
    assert file_settings(path, rotates=False).path == path


@pytest.mark.parametrize(
    "path",
    [
        "/x/{display_name}.log",
        "/x/{display_name}/log",
        "/x/{display_name}.log.gz",
        "/x/{display_name}-{date}",
        "/x/{display_name}/{date}",
        "/x/{date}-{hour}",
        "/x/all",
        "/x/all.000001",
    ],
)
def test_a_path_that_no_value_can_make_a_number_is_taken(path: str) -> None:
    assert file_settings(path, rotates=True).path == path


@pytest.mark.parametrize(
    "other",
    [
        "/x/{container}.log.000001",
        "/x/{sandbox_id}.log.1234567",
        "/x/a.log.000001.gz",
        "/x/a.log.000001.zst",
        "/x/a.log.000001.partial",
    ],
)
def test_a_sink_that_rotates_may_meet_another_in_its_numbered_files(other: str) -> None:
    rotating = file_settings("/x/{sandbox_id}.log", rotates=True)
    plain = file_settings("/x/{sandbox_id}.log", rotates=False)
    numbered = file_settings(other, rotates=False)
    assert rotating.may_meet(numbered)
    assert numbered.may_meet(rotating)
    assert not plain.may_meet(numbered)
    assert not rotating.may_meet(file_settings("/x/{sandbox_id}.log.1", rotates=True))
    assert not rotating.may_meet(file_settings("/y/{sandbox_id}.log.000001", rotates=True))


def test_a_sink_may_meet_another_in_what_it_sets_aside() -> None:
    one = FileSettings(path="/x/{sandbox_id}.log")
    other = FileSettings(path="/x/a.log.unconfirmed")
    assert one.may_meet(other)
    assert other.may_meet(one)


@pytest.mark.parametrize("again", ["{root}//a.log", "{root}/./a.log", "{root}/{{sandbox_id}}.log"])
def test_sinks_that_may_meet_in_one_file_are_known_before_they_do(
    tmp_path: Path, again: str
) -> None:
    first = FileSettings(path=f"{tmp_path}/a.log")
    assert first.may_meet(FileSettings(path=again.format(root=tmp_path)))
    assert not first.may_meet(FileSettings(path=f"{tmp_path}/b.log"))
