"""What is said beside a line: where it comes from, and what a gap is."""

from __future__ import annotations

from typing import Any

import pytest

from sinks.interface import Stream
from sinks.otlp.attributes import gap_attributes, gap_body, gap_severity, resource_attributes
from sinks.service import ServiceSettings
from sinks.testing import gap_of


def resource(**about: Any) -> dict[str, Any]:
    return dict(resource_attributes(Stream("sbx-1", "main", **about), ServiceSettings()))


LEAST = {
    "service.name": "unknown_service",
    "cwsandbox.id": "sbx-1",
    "container.name": "main",
}


def test_of_a_bare_stream_only_its_identity_is_said() -> None:
    assert resource() == LEAST


def test_everything_that_is_known_is_said() -> None:
    found = resource(
        display_name="trainer",
        tags=("a", "b"),
        runner_id="runner-7",
        annotations={"team": "red"},
        attributes={"deployment.environment.name": "prod"},
    )
    assert found == LEAST | {
        "cwsandbox.display_name": "trainer",
        "cwsandbox.tags": ("a", "b"),
        "cwsandbox.runner_id": "runner-7",
        "cwsandbox.annotation.team": "red",
        "deployment.environment.name": "prod",
    }


def test_an_operator_s_attribute_does_not_stand_in_for_what_is_known() -> None:
    attributes = {"cwsandbox.id": "other", "container.name": "other", "service.name": "chosen"}
    assert resource(attributes=attributes) == LEAST | {"service.name": "chosen"}


@pytest.mark.parametrize(
    ("image", "name", "tags", "digests"),
    [
        ("python", "python", None, None),
        ("python:3.11", "python", ("3.11",), None),
        ("ghcr.io:443/acme/python", "ghcr.io:443/acme/python", None, None),
        ("ghcr.io:443/acme/python:3", "ghcr.io:443/acme/python", ("3",), None),
        ("python@sha256:0af", "python", None, ("python@sha256:0af",)),
        ("a/b:1@sha256:0af", "a/b", ("1",), ("a/b@sha256:0af",)),
    ],
)
def test_an_image_is_said_in_its_parts(
    image: str, name: str, tags: tuple[str, ...] | None, digests: tuple[str, ...] | None
) -> None:
    found = resource(image=image)
    assert found["container.image.name"] == name
    assert found.get("container.image.tags") == tags
    assert found.get("container.image.repo_digests") == digests


@pytest.mark.parametrize(
    ("about", "severity", "body"),
    [
        ({"first_line": 132}, (13, "WARN"), "lines are missing after line 131 (anchor_lost)"),
        ({"first_line": 0}, (13, "WARN"), "lines are missing before line 0 (anchor_lost)"),
        (
            {"first_line": 5, "kind": "tail", "cause": "tail_unknown", "missing_bytes": 77},
            (13, "WARN"),
            "lines are missing after line 4, to the end, 77 bytes (tail_unknown)",
        ),
        (
            {"first_line": 5, "filled_ns": 9},
            (9, "INFO"),
            "the gap after line 4 was filled: its lines were found",
        ),
    ],
)
def test_a_gap_is_a_warning_in_words_until_it_is_taken_back(
    about: dict[str, Any], severity: tuple[int, str], body: str
) -> None:
    gap = gap_of(**about).gap
    assert gap is not None
    assert gap_severity(gap) == severity
    assert gap_body(gap) == body


def test_keys_of_a_gap_that_are_not_known_here_are_passed_on() -> None:
    assert gap_attributes({"kind": "range", "tomorrow": None}) == {
        "cwsandbox.gap.kind": "range",
        "cwsandbox.gap.tomorrow": None,
    }
