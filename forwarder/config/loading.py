"""From a configuration file to settings. Nothing but the file is read, and nothing is created."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from forwarder.config.problems import Report, listed, nearest
from forwarder.config.reader import read_tree
from forwarder.config.settings import (
    CREDENTIAL_KEYS,
    SINK_NAME_PATTERN,
    EngineSettings,
    Settings,
)
from forwarder.config.substitution import substitute_tree
from forwarder.config.tree import MapNode, Scalar, locate
from forwarder.config.validation import validate
from forwarder.config.words import NO_VALUE, required, show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from forwarder.config.problems import Loc
    from forwarder.config.tree import Node
    from sinks.settings import SinkSettings, Variable

#: Sections in which every key may be left out: one that is there but empty means just that.
MAY_BE_EMPTY: Final = frozenset({"source", "spool", "admin", "log", "shutdown"})
_BAD_NAME: Final = (
    'not a name for a sink; use up to 63 of a-z, 0-9, "_" and "-", beginning with a letter or digit'
)


def load_settings(
    path: Path, *, sink_types: Mapping[str, type[SinkSettings]], env: Mapping[str, str]
) -> Settings:
    """Read, substitute and check a configuration file.

    Args:
        path: A YAML 1.2 file.
        sink_types: The settings class of every known kind of sink.
        env: The environment, for `${NAME}`, `CWSANDBOX_BASE_URL` and `CWSANDBOX_API_KEY`, and for
            what sinks take from it.

    Raises:
        InvalidConfigError: A `ConfigError` with every problem at once, one line each, as
            `file:line: key: what was seen and what is allowed`. No secret and no value from the
            environment is in it.
    """
    report = Report(str(path))
    root = read_tree(path, report)
    _open_empty_sections(root)
    substitute_tree(root, env, report)
    _fill_from_environment(root, env)
    engine = _engine_settings(root, report)
    sinks = _sink_settings(root, sink_types, env, report)
    report.raise_any()
    # Every part that is missing was reported.
    assert engine is not None
    parts = {name: getattr(engine, name) for name in EngineSettings.model_fields}
    return Settings(**parts, sinks=sinks)


def _open_empty_sections(root: MapNode) -> None:
    for key in MAY_BE_EMPTY & root.items.keys():
        if _is_empty(root.items[key]):
            root.items[key] = MapNode(root.key_lines[key], {}, {})


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.broken and node.plain() is None


def _fill_from_environment(root: MapNode, env: Mapping[str, str]) -> None:
    """Put in what may be left out of `source`, as if the file had a reference to the variable."""
    source = root.items.setdefault("source", MapNode(root.line, {}, {}))
    root.key_lines.setdefault("source", root.line)
    if not isinstance(source, MapNode):
        return
    if "base_url" not in source.items:
        _refer(source, "base_url", "CWSANDBOX_BASE_URL", env)
    if not any(key in source.items for key in CREDENTIAL_KEYS):
        _refer(source, "api_key", "CWSANDBOX_API_KEY", env)


def _refer(section: MapNode, key: str, variable: str, env: Mapping[str, str]) -> None:
    if value := env.get(variable):
        reference = f"${{{variable}}}"
        section.items[key] = Scalar(section.line, reference, value, typed=False)
        section.key_lines[key] = section.line


def _keys(section: MapNode) -> set[str]:
    inner = [(key, node) for key, node in section.items.items() if isinstance(node, MapNode)]
    return {*section.items, *(f"{key}.{name}" for key, node in inner for name in node.items)}


def _supply(section: MapNode, key: str, found: str | Variable, env: Mapping[str, str]) -> None:
    """Put in what a sink takes from the environment, as if the file had a reference to it."""
    outer, dot, inner = key.partition(".")
    if dot:
        section.key_lines.setdefault(outer, section.line)
        below = section.items.setdefault(outer, MapNode(section.line, {}, {}))
        if isinstance(below, MapNode):
            _supply(below, inner, found, env)
    elif isinstance(found, str):
        _refer(section, key, found, env)
    elif isinstance(found.value, str):
        _refer(section, key, found.name, {found.name: found.value})
    else:
        below = section.items[key] = MapNode(section.line, {}, {})
        section.key_lines[key] = section.line
        for name, text in found.value.items():
            _refer(below, name, found.name, {found.name: text})


def _engine_settings(root: MapNode, report: Report) -> EngineSettings | None:
    items = {key: node for key, node in root.items.items() if key != "sinks"}
    node = MapNode(root.line, items, root.key_lines)
    return validate(EngineSettings, node, (), report, shape=Settings)


def _sink_settings(
    root: MapNode,
    sink_types: Mapping[str, type[SinkSettings]],
    env: Mapping[str, str],
    report: Report,
) -> dict[str, SinkSettings]:
    sinks: dict[str, SinkSettings] = {}
    for name, line, node in _sink_entries(root, report):
        loc = ("sinks", name)
        if not re.fullmatch(SINK_NAME_PATTERN, name):
            report.add(line, loc, _BAD_NAME)
        if not isinstance(node, MapNode):
            _expected_mapping(line, loc, node, report)
        elif (settings_class := _sink_class(node, line, loc, sink_types, report)) is not None:
            for key, found in settings_class.from_environment(_keys(node), env).items():
                _supply(node, key, found, env)
            settings = validate(settings_class, node, loc, report)
            if settings is not None:
                sinks[name] = settings
    _check_destinations(root, sinks, report)
    return sinks


def _check_destinations(root: MapNode, sinks: Mapping[str, SinkSettings], report: Report) -> None:
    names = list(sinks)
    for place, name in enumerate(names):
        for other in names[:place]:
            if sinks[name].type == sinks[other].type and sinks[name].may_meet(sinks[other]):
                line = locate(root, ("sinks", name))[0]
                same = sinks[name].destination == sinks[other].destination
                writes = "writes" if same else "may write"
                text = f"{writes} to the same place as sinks.{other}; their lines would mix"
                report.add(line, ("sinks", name), text)
                break


def _sink_entries(root: MapNode, report: Report) -> list[tuple[str, int, Node]]:
    node = root.items.get("sinks")
    if node is None:
        unknown = (key for key in root.items if key not in Settings.model_fields)
        if not any(nearest(key, Settings.model_fields) == "sinks" for key in unknown):
            report.add(root.line, ("sinks",), required(Settings, ("sinks",)))
        return []
    line = root.key_lines["sinks"]
    if not isinstance(node, MapNode):
        _expected_mapping(line, ("sinks",), node, report)
        return []
    if not node.items:
        report.add(line, ("sinks",), "must not be empty")
    return [(name, node.key_lines[name], entry) for name, entry in node.items.items()]


def _expected_mapping(line: int, loc: Loc, node: Node, report: Report) -> None:
    if _is_empty(node):
        report.add(line, loc, NO_VALUE)
    elif not (isinstance(node, Scalar) and node.broken):
        seen = "text" if isinstance(node, Scalar) else "a list"
        report.add(line, loc, f"expected a mapping (key: value), got {seen}")


def _sink_class(
    node: MapNode,
    line: int,
    loc: Loc,
    sink_types: Mapping[str, type[SinkSettings]],
    report: Report,
) -> type[SinkSettings] | None:
    kind = node.items.get("type")
    known = f"known: {listed(sink_types, last='and')}" if sink_types else "none is known"
    if kind is None:
        report.add(line, (*loc, "type"), f"is required: the kind of sink; {known}")
        return None
    if isinstance(kind, Scalar):
        if kind.broken:
            return None
        if kind.text in sink_types:
            return sink_types[kind.text]
    meant = nearest(kind.text, sink_types) if isinstance(kind, Scalar) else None
    hint = f'; did you mean "{meant}"?' if meant else ";"
    line = node.key_lines["type"]
    problem = "unknown kind of sink" if isinstance(kind, Scalar) else "expected a kind of sink, got"
    report.add(line, (*loc, "type"), f"{problem} {show(kind)}{hint} {known}")
    return None
