"""A sink of somebody else may use any of pydantic: its mistakes read like ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr

from forwarder.config import InvalidConfigError, json_schema, load_settings
from sinks.settings import Duration, SinkSettings
from tests.unit.config.config_support import ENV


class Retry(BaseModel):
    """A part of its own."""

    pause: Duration = 1.0
    """How long."""
    times: int


class ForeignSettings(SinkSettings):
    """What a plug-in might bring."""

    type: Literal["foreign"]
    step: Annotated[int, Field(multiple_of=4)] = 4
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    password: SecretStr | None = None
    retry: Retry | None = None
    level: int | Literal["auto"] = "auto"
    pair: tuple[int, str] | None = None
    labels: dict[str, set[str]] = Field(default_factory=dict)
    extra: Mapping[str, Any] = {}
    bare: list = Field(default_factory=list)  # type: ignore[type-arg]  # plug-ins are not all typed


TYPES = {"foreign": ForeignSettings}


def load(path: Path, keys: str, env: Mapping[str, str] = ENV) -> ForeignSettings:
    """A foreign sink with these keys, from line 4 on."""
    file = path / "c.yaml"
    file.write_text(
        f"state_dir: /s\nsandboxes: [{{id: a}}]\nsinks:\n  x: {{type: foreign, {keys}}}\n"
    )
    sink = load_settings(file, sink_types=TYPES, env=env).sinks["x"]
    assert isinstance(sink, ForeignSettings)
    return sink


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("step: 5", "step: expected a multiple of 4, got 5"),
        ("name: A", 'name: must match ^[a-z]+$, got "A"'),
        ("password: 5", "password: expected text, got a hidden value; put it in quotes"),
        ("retry: {pause: 5}", "retry.times: is required"),
        ("retry: {times: x}", 'retry.times: expected a whole number, got "x"'),
        ("pair: [x, y]", 'pair[0]: expected a whole number, got "x"'),
        ("labels: {a: x}", 'labels.a: expected a list, got "x"'),
        ("extra: x", "extra: expected a mapping (key: value), got text"),
        ("bare: x", 'bare: expected a list, got "x"'),
    ],
)
def test_a_foreign_mistake_has_its_place_and_our_words(
    keys: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        load(tmp_path, keys)

    places = [str(each).split("c.yaml:4: sinks.x.")[1] for each in caught.value.problems]
    assert problem in places


def test_the_branches_of_a_union_are_not_part_of_the_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        load(tmp_path, "level: high")

    assert {problem.path for problem in caught.value.problems} == {"sinks.x.level"}


def test_free_mappings_may_hold_anything(tmp_path: Path) -> None:
    sink = load(tmp_path, "extra: {a: [1, {b: ~}]}, bare: [1, x], level: 3, pair: [1, x]")

    assert sink.extra == {"a": [1, {"b": None}]}
    assert sink.bare == [1, "x"]
    assert (sink.level, sink.pair) == (3, (1, "x"))


def test_two_sinks_may_share_a_place_unless_they_say_otherwise(tmp_path: Path) -> None:
    assert not load(tmp_path, "step: 8").destination


def test_a_value_that_is_not_utf_8_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="variable RAW is not UTF-8 text"):
        load(tmp_path, "name: '${RAW}'", {**ENV, "RAW": "\udcff"})


def test_the_schema_follows_parts_of_parts() -> None:
    definitions = json_schema(TYPES)["$defs"]

    assert definitions["Retry"]["properties"]["pause"]["default"] == "1s"
