"""Which sinks there are."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from sinks.file import FileSettings, FileSink
from sinks.interface import Sink
from sinks.registry import BUILTIN, ENTRY_POINT_GROUP, SinkPluginError, SinkType, available
from sinks.settings import SinkSettings
from sinks.testing import MemorySink


class PigeonSettings(SinkSettings):
    """Settings of a third-party sink."""


PIGEON = SinkType(PigeonSettings, lambda _name, _settings: MemorySink())


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, ENTRY_POINT_GROUP)


def test_the_file_sink_is_built_in() -> None:
    made = BUILTIN["file"].build("archive", FileSettings(path="/x"))
    assert isinstance(made, FileSink)
    assert isinstance(made, Sink)


def test_what_installed_packages_bring_is_looked_up() -> None:
    assert set(BUILTIN) <= set(available())


def test_a_plug_in_is_there_under_its_name() -> None:
    assert available([entry("pigeon", f"{__name__}:PIGEON")])["pigeon"] is PIGEON


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("file", f"{__name__}:PIGEON")], "'file' is a built-in sink"),
        ([entry("p", f"{__name__}:PIGEON")] * 2, "'p' is another plug-in's sink"),
        ([entry("p", "no_such_module_at_all:X")], "sink plug-in 'p' (no_such_module_at_all:X)"),
        ([entry("p", f"{__name__}:MISSING")], "does not load: AttributeError"),
        ([entry("p", f"{__name__}:PigeonSettings")], "expected a SinkType"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_named(entries: list[EntryPoint], message: str) -> None:
    with pytest.raises(SinkPluginError) as caught:
        available(entries)
    assert message in str(caught.value)
