"""Which service a sandbox's lines belong to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sinks.interface import Stream
from sinks.service import UNKNOWN_SERVICE, ServiceSettings, image_name, service_name

EVERYTHING = Stream(
    "sbx-1",
    "main",
    display_name="display",
    tags=("team:ml", "service:", "service:tagged", "service:second"),
    image="ghcr.io/acme/imaged:3.11",
    annotations={"service.name": "annotated"},
    attributes={"service.name": "selected"},
)


def test_the_first_that_is_there_counts() -> None:
    settings = ServiceSettings(name="set")
    stream, default = EVERYTHING, ServiceSettings()
    assert service_name(stream, settings) == "set"
    assert service_name(stream, default) == "selected"
    stream = replace(stream, attributes={})
    assert service_name(stream, default) == "annotated"
    stream = replace(stream, annotations={"service.name": ""})
    assert service_name(stream, default) == "tagged"
    stream = replace(stream, tags=("team:ml", "service:"))
    assert service_name(stream, ServiceSettings(default="otherwise")) == "otherwise"
    assert service_name(stream, default) == "imaged"
    assert service_name(replace(stream, image=""), default) == UNKNOWN_SERVICE


def test_annotation_and_tag_can_be_named() -> None:
    settings = ServiceSettings(annotation="team/service", tag_prefix="svc=")
    stream = replace(EVERYTHING, attributes={}, annotations={"service.name": "no"}, tags=("svc=a",))
    assert service_name(stream, settings) == "a"
    stream = replace(stream, annotations={"team/service": "b"})
    assert service_name(stream, settings) == "b"


@given(st.text(min_size=1))
def test_the_sandbox_is_never_the_service(sandbox_id: str) -> None:
    stream = Stream(sandbox_id, "main", display_name=sandbox_id)
    assert service_name(stream, ServiceSettings()) == UNKNOWN_SERVICE


@pytest.mark.parametrize("field", ["name", "annotation", "tag_prefix", "default"])
def test_an_empty_setting_is_refused(field: str) -> None:
    with pytest.raises(ValidationError):
        ServiceSettings.model_validate({field: ""})


@pytest.mark.parametrize(
    ("image", "name"),
    [
        *(("python", "python"), ("python:3.11", "python"), ("acme/python", "python")),
        *(("localhost:5000/app", "app"), ("localhost:5000/app:1@sha256:abc", "app"), ("", "")),
    ],
)
def test_an_images_name_has_neither_registry_nor_version(image: str, name: str) -> None:
    assert image_name(image) == name
