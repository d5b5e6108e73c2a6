"""Path templates: what may be written, and what comes out."""

from __future__ import annotations

import pytest

from sinks.interface import Stream
from sinks.template import Template, TemplateError, safe_name

STREAM = Stream("sbx-1", "main", display_name="My Sandbox")
STAMP_NS = 1_763_870_706_123_456_789


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/logs/{sandbox_id}.log", "/logs/sbx-1.log"),
        ("{sandbox_id}/{container}", "sbx-1/main"),
        ("{display_name}.log", "My~20Sandbox.log"),
        ("{date}/{hour}.log", "2025-11-23/04.log"),
        ("a{{b}}c/{{{sandbox_id}}}", "a{b}c/{sbx-1}"),
        ("/with space/ü/{container}", "/with space/ü/main"),
        ("plain", "plain"),
    ],
)
def test_known_names_are_replaced_and_the_rest_stays_as_written(text: str, path: str) -> None:
    assert Template.parse(text).render(STREAM, STAMP_NS) == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{sandbox}", "unknown name {sandbox}: did you mean {sandbox_id}?"),
        ("{Hour}", "did you mean {hour}?"),
        ("{}", "empty braces: expected one of {sandbox_id}, {container}, {display_name}"),
        ("{sandbox_id.__class__}", "unknown name {sandbox_id.__class__}"),
        ("{sandbox_id[0]}", "unknown name"),
        ("{hour:>1000000000}", "unknown name {hour:>1000000000}: did you mean {hour}?"),
        ("{hour!r}", "unknown name"),
        ("{ hour }", "unknown name"),
        ("a{b", "stray '{' in 'a{b'; write '{{' for the sign itself"),
        ("a}b", "stray '}'"),
        ("{sandbox_id}}", "stray '}'"),
        ("", "empty path"),
        ("/logs/", "names a directory"),
        ("/logs/.", "names a directory"),
        ("..", "'..' is not allowed"),
        ("/a/../{hour}", "'..' is not allowed"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("~/logs", "'~' is not expanded"),
        ("x" * 241, "too much in one file name"),
        ("{sandbox_id}" * 7, "too much in one file name"),
    ],
)
def test_a_template_that_cannot_work_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(text)
    assert message in str(caught.value)


def test_only_date_and_hour_need_a_stamp() -> None:
    assert Template.parse("{date}").needs_stamp
    assert Template.parse("{hour}").needs_stamp
    assert not Template.parse("{sandbox_id}{container}{display_name}").needs_stamp


def test_the_fields_are_those_used() -> None:
    assert Template.parse("a/{hour}/{container}/{hour}").fields == {"hour", "container"}


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("/var/log/{sandbox_id}/x", "/var/log/"),
        ("/var/log/pre-{sandbox_id}", "/var/log/"),
        ("/x.log", "/"),
        ("{hour}", ""),
        ("/a{{b}}/x", "/a{b}/"),
    ],
)
def test_the_root_is_the_part_that_no_value_can_change(text: str, root: str) -> None:
    assert Template.parse(text).root == root


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("sbx-1_a.B", "sbx-1_a.B"),
        ("a/b", "a~2fb"),
        ("a_b", "a_b"),
        (".", "~2e"),
        ("..", "~2e."),
        ("-rf", "~2drf"),
        ("", "~empty"),
        ("a\0b\n", "a~00b~0a"),
        ("~", "~7e"),
        ("é", "~c3~a9"),
        ("e\u0301", "e~cc~81"),
        ("\ud800", "~ed~a0~80"),
    ],
)
def test_a_value_becomes_a_safe_piece_of_a_file_name(value: str, name: str) -> None:
    assert safe_name(value) == name


def test_a_long_value_is_cut_and_ends_in_a_digest() -> None:
    name = safe_name("x" * 5000)
    assert len(name) == 200
    assert name.startswith("x" * 166 + "~~")
    assert name != safe_name("x" * 5001)


def test_several_long_values_share_one_file_name() -> None:
    stream = Stream("s" * 500, "c" * 500, display_name="d" * 500)
    path = Template.parse("/{sandbox_id}.{container}.{display_name}.{date}.log").render(stream)
    assert 200 < len(path.removeprefix("/")) <= 240


@pytest.mark.parametrize(
    ("one", "other", "may_meet"),
    [
        ("/x/a.log", "/x/a.log", True),
        ("/x/a.log", "/x/b.log", False),
        ("/x/{sandbox_id}.log", "/x/sbx-1.log", True),
        ("/x/{sandbox_id}.log", "/x/.log", False),
        ("/x/{sandbox_id}.log", "/x/a/b.log", False),
        ("/x/{sandbox_id}.log", "/x/ä.log", False),
        ("/x/{sandbox_id}.log", "/x/{container}.log", True),
        ("/x/{sandbox_id}.log", "/x/{sandbox_id}.ndjson", False),
        ("/x/{sandbox_id}/{container}", "/x/{container}/{sandbox_id}", True),
        ("/x/{sandbox_id}/{container}", "/x/{sandbox_id}", False),
        ("/x/{sandbox_id}-{container}", "/x/{sandbox_id}", True),
        ("/x/{date}.log", "/x/2025-11-23.log", True),
        ("/x/{date}.log", "/x/2025-11-2x.log", False),
        ("/x/{date}.log", "/x/{hour}.log", False),
        ("/x/{date}-{hour}", "/x/{date}-{hour}", True),
        ("/x/{date}", "/x/{container}", True),
        ("/x/{hour}/a", "/y/{hour}/a", False),
    ],
)
def test_templates_that_may_name_one_file_are_known(one: str, other: str, may_meet: bool) -> None:
    templates = Template.parse(one), Template.parse(other)
    assert templates[0].may_meet(templates[1]) is may_meet
    assert templates[1].may_meet(templates[0]) is may_meet


def test_the_paths_of_a_stream_are_known_whatever_the_stamp() -> None:
    template = Template.parse("/x+/{sandbox_id}/{date}.{hour}.log")
    stream = Stream("a/b", "main")
    pattern = template.paths_of(stream)
    assert pattern.fullmatch(template.render(stream, 1_763_899_200_000_000_000))
    assert not pattern.fullmatch(template.render(Stream("a/bc", "main"), 1))
    assert not pattern.fullmatch("/x+/a~2fb/2025-11-23.1x.log")
