"""What the pages about archives show works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from forwarder.config import load_settings
from sinks.s3.providers import PRESETS
from sinks.s3.settings import S3Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCS = Path(__file__).parents[4] / "docs"
PAGE = (DOCS / "sinks" / "s3.md").read_text("utf-8")
BOTH = PAGE + (DOCS / "archiving.md").read_text("utf-8")
ENV: Mapping[str, str] = {
    "CWSANDBOX_API_KEY": "key",
    **dict.fromkeys(re.findall(r"\$\{(\w+)\}", BOTH), "AKIA"),
}
HEAD = "state_dir: /s\nsandboxes: [{id: a}]\n"
SINK = "sinks:\n  archive:\n    type: s3\n    bucket: my-logs\n    region: eu-west-1\n"


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```", BOTH, re.DOTALL | re.MULTILINE)
    assert found
    return found


def loaded(directory: Path, block: str) -> S3Settings:
    file = directory / "c.yaml"
    file.write_text(HEAD + (block if block.startswith("sinks:") else SINK + block))
    (sink,) = load_settings(file, sink_types={"s3": S3Settings}, env=ENV).sinks.values()
    assert isinstance(sink, S3Settings)
    return sink


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_configurations_of_the_documentation_are_taken(tmp_path: Path, block: str) -> None:
    assert loaded(tmp_path, block).bucket == "my-logs"


def test_every_store_has_a_configuration_to_begin_with(tmp_path: Path) -> None:
    shown = {loaded(tmp_path, block).store for block in blocks("yaml")}
    assert shown == PRESETS.keys() - {"other"}


@pytest.mark.parametrize("block", blocks("json"))
def test_the_documents_of_the_documentation_are_json(block: str) -> None:
    assert orjson.loads(block)


def test_every_key_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", PAGE.split("## Quick start")[0]))
    every = {key.removesuffix("_file") for key in S3Settings.model_fields}
    assert every - documented <= {"type", "dead_letters", "credentials"}


def test_every_link_leads_somewhere() -> None:
    for page in (DOCS / "sinks" / "s3.md", DOCS / "archiving.md"):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            heads = (
                re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE) if anchor else []
            )
            assert not anchor or anchor in {_anchor(head) for head in heads}, target


def _anchor(head: str) -> str:
    return re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
