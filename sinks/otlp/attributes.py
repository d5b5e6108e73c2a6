"""What OTLP says beside a line: its resource, and what a gap record holds. Pure.

The names follow the semantic conventions where these have one; everything else is below
`cwsandbox`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks.service import service_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.interface import Slice, Stream
    from sinks.otlp.wire import Value
    from sinks.service import ServiceSettings

#: Without a version: after an upgrade the same record would be another one to who compares them.
SCOPE_NAME = "sandbox-forwarder"

UID = "log.record.uid"
LINE = "cwsandbox.line"
GENERATION = "cwsandbox.generation"
PART = "cwsandbox.part"
_GAP = "cwsandbox.gap"

#: What a log record is that reports lines as missing, or takes such a report back.
GAP_EVENT = _GAP

INFO, WARN = 9, 13


def resource_attributes(stream: Stream, service: ServiceSettings) -> dict[str, Value]:
    """Where the lines of a stream come from.

    Attributes of the configuration's selector are in it as they are; what this program knows itself
    stands before one of the same name, save for `service.name`, where the settings' order counts.
    """
    known: dict[str, Value] = {
        **stream.attributes,
        "service.name": service_name(stream, service),
        "cwsandbox.id": stream.sandbox_id,
        "container.name": stream.container,
        **_image_attributes(stream.image),
    }
    if stream.display_name:
        known["cwsandbox.display_name"] = stream.display_name
    if stream.tags:
        known["cwsandbox.tags"] = stream.tags
    if stream.runner_id:
        known["cwsandbox.runner_id"] = stream.runner_id
    known.update({f"cwsandbox.annotation.{k}": v for k, v in stream.annotations.items()})
    return known


def _image_attributes(image: str) -> dict[str, Value]:
    """`ghcr.io:443/acme/python:3.11@sha256:...` in its parts, those that are there."""
    reference, _, digest = image.partition("@")
    path, slash, last = reference.rpartition("/")
    last, _, tag = last.partition(":")
    name = f"{path}{slash}{last}"
    attributes: dict[str, Value] = {}
    if name:
        attributes["container.image.name"] = name
    if tag:
        attributes["container.image.tags"] = (tag,)
    if digest:
        attributes["container.image.repo_digests"] = (f"{name}@{digest}",)
    return attributes


def slice_attributes(source: Slice) -> dict[str, Value]:
    """What all records of a slice have in common, beside their resource."""
    attributes: dict[str, Value] = {}
    if source.generation:
        attributes[GENERATION] = source.generation
    if source.part:
        attributes[PART] = source.part
    return attributes


def gap_attributes(gap: Mapping[str, str | int | None]) -> dict[str, Value]:
    """Every key of a gap record, those too that are not known here."""
    return {f"{_GAP}.{key}": value for key, value in gap.items()}


def gap_severity(gap: Mapping[str, str | int | None]) -> tuple[int, str]:
    """A warning; one that is taken back is none any more."""
    return (INFO, "INFO") if gap.get("filled_ns") else (WARN, "WARN")


def gap_body(gap: Mapping[str, str | int | None]) -> str:
    """A gap record for a person to read; programs read the attributes."""
    if gap.get("filled_ns"):
        return f"the gap {_place(gap)} was filled: its lines were found"
    size = gap.get("missing_bytes")
    extent = f", {size} bytes" if isinstance(size, int) and size > 0 else ""
    return f"lines are missing {_place(gap)}{extent} ({gap.get('cause') or 'unknown cause'})"


def _place(gap: Mapping[str, str | int | None]) -> str:
    after = gap.get("after_line")
    start = f"after line {after}" if isinstance(after, int) and after >= 0 else "before line 0"
    return f"{start}, to the end" if gap.get("kind") == "tail" else start
