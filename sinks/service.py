"""The name of the service that a sandbox's lines belong to: few names for many sandboxes."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

from typing import Annotated

from pydantic import Field

from sinks.interface import Stream
from sinks.settings import Section

#: What the OpenTelemetry specification calls a service without a name.
UNKNOWN_SERVICE = "unknown_service"


class ServiceSettings(Section):
    """Where `service.name` comes from; the first that is there counts. Never the sandbox's id."""

    name: Annotated[str, Field(min_length=1)] | None = None
    """This name, for every sandbox."""
    annotation: Annotated[str, Field(min_length=1)] = "service.name"
    """The value of this annotation of the sandbox."""
    tag_prefix: Annotated[str, Field(min_length=1)] = "service:"
    """What follows this in one of its tags."""
    default: Annotated[str, Field(min_length=1)] | None = None
    """Otherwise this; when left out, the container's image without registry and version."""


def service_name(stream: Stream, settings: ServiceSettings) -> str:
    """The service of a stream.

    An attribute `service.name` of the configuration's selector stands before annotation and tag.
    """
    chosen = settings.name or stream.attributes.get("service.name")
    chosen = chosen or stream.annotations.get(settings.annotation)
    if chosen:
        return chosen
    for tag in stream.tags:
        if len(tag) > len(settings.tag_prefix) and tag.startswith(settings.tag_prefix):
            return tag[len(settings.tag_prefix) :]
    return settings.default or image_name(stream.image) or UNKNOWN_SERVICE


def image_name(image: str) -> str:
    """`python` of `ghcr.io/acme/python:3.11@sha256:...`: neither registry, path nor version."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]
