"""Which sinks there are: the built-in ones, and those that installed packages bring.

A package brings a sink with an entry point of the group `sandbox_forwarder.sinks`, whose name is
the `type` in the configuration and whose object is a `SinkType`::

    [project.entry-points."sandbox_forwarder.sinks"]
    carrier_pigeon = "pigeons.sink:SINK_TYPE"
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sinks.console import ConsoleSettings, ConsoleSink
from sinks.discard import DiscardSettings, DiscardSink
from sinks.elasticsearch import ElasticsearchSettings, ElasticsearchSink
from sinks.file import FileSettings, FileSink
from sinks.http import HttpSettings, HttpSink
from sinks.loki import LokiSettings, LokiSink
from sinks.otlp import OtlpSettings, OtlpSink
from sinks.s3 import S3Settings, S3Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sinks.interface import Sink
    from sinks.settings import SinkSettings
    from sinks.window import WindowSink

#: The group of entry points that third-party sinks register under.
ENTRY_POINT_GROUP = "sandbox_forwarder.sinks"


@dataclass(frozen=True, slots=True)
class SinkType:
    """A kind of sink.

    Attributes:
        settings: What its section of the configuration is read into.
        build: Makes the sink from its name and its settings, and touches nothing else.
    """

    settings: type[SinkSettings]
    build: Callable[[str, Any], Sink | WindowSink]


class SinkPluginError(ValueError):
    """An installed package brings a sink that cannot be used; the message names both."""


#: The sinks of this package, by `type`.
BUILTIN: Mapping[str, SinkType] = MappingProxyType(
    {
        "console": SinkType(ConsoleSettings, ConsoleSink),
        "discard": SinkType(DiscardSettings, DiscardSink),
        "elasticsearch": SinkType(ElasticsearchSettings, ElasticsearchSink),
        "file": SinkType(FileSettings, FileSink),
        "http": SinkType(HttpSettings, HttpSink),
        "loki": SinkType(LokiSettings, LokiSink),
        "otlp": SinkType(OtlpSettings, OtlpSink),
        "s3": SinkType(S3Settings, S3Sink),
    }
)


def available(found: Iterable[EntryPoint] | None = None) -> dict[str, SinkType]:
    """Every sink type by its name.

    Args:
        found: The entry points to look at; by default those of the installed packages.

    Raises:
        SinkPluginError: A plug-in does not load, is no `SinkType`, or takes a name already taken.
    """
    types = dict(BUILTIN)
    for entry in entry_points(group=ENTRY_POINT_GROUP) if found is None else found:
        if entry.name in types:
            kind = "a built-in sink" if entry.name in BUILTIN else "another plug-in's sink"
            raise SinkPluginError(f"sink plug-in {_named(entry)}: {entry.name!r} is {kind}")
        types[entry.name] = _load(entry)
    return types


def _load(entry: EntryPoint) -> SinkType:
    try:
        loaded = entry.load()
    except Exception as error:  # foreign code, which may raise anything at import
        raise SinkPluginError(f"sink plug-in {_named(entry)} does not load: {error!r}") from error
    if not isinstance(loaded, SinkType):
        raise SinkPluginError(
            f"sink plug-in {_named(entry)} is a {type(loaded).__name__}, expected a SinkType"
        )
    return loaded


def _named(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name}" if entry.dist is not None else ""
    return f"{entry.name!r} ({entry.value}){package}"
