"""Two file sinks are refused when some sandbox could make them write to one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from forwarder.config import InvalidConfigError, load_settings
from sinks.file import FileSettings
from tests.unit.config.config_support import ENV

if TYPE_CHECKING:
    from pathlib import Path


def load(directory: Path, one: str, other: str) -> None:
    """A configuration with two file sinks of these paths."""
    file = directory / "c.yaml"
    file.write_text(
        "state_dir: /s\nsandboxes: [{id: a}]\nsinks:\n"
        f"  one: {{type: file, path: '{one}'}}\n"
        f"  other: {{type: file, path: '{other}'}}\n"
    )
    load_settings(file, sink_types={"file": FileSettings}, env=ENV)


@pytest.mark.parametrize(
    ("one", "other", "writes"),
    [
        ("/x/a.log", "/x/a.log", "writes"),
        ("/x/a.log", "/x//./a.log", "writes"),
        ("/x/{sandbox_id}.log", "/x/sbx-1.log", "may write"),
        ("/x/{sandbox_id}.log", "/x/{container}.log", "may write"),
    ],
)
def test_paths_that_may_meet_are_refused(tmp_path: Path, one: str, other: str, writes: str) -> None:
    with pytest.raises(InvalidConfigError) as refused:
        load(tmp_path, one, other)
    (problem,) = refused.value.problems
    assert (problem.path, problem.line) == ("sinks.other", 5)
    assert problem.text == f"{writes} to the same place as sinks.one; their lines would mix"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/x/{sandbox_id}.log", "/x/{sandbox_id}.ndjson"),
        ("/x/{sandbox_id}.log", "/y/{sandbox_id}.log"),
        ("/x/{date}/{sandbox_id}.log", "/x/all/{sandbox_id}.log"),
    ],
)
def test_paths_that_never_meet_are_fine(tmp_path: Path, one: str, other: str) -> None:
    load(tmp_path, one, other)
