"""The labels of Loki's streams: which are refused, and that no value can get out of its quotes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sinks.interface import Stream
from sinks.loki import LokiSettings
from sinks.loki.labels import parse_labels, render_labels, selector
from sinks.service import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE = ServiceSettings()
STREAM = Stream(
    "sbx-1",
    "main",
    display_name="a run",
    tags=("prod", "team=red", "service:trainer"),
    image="ghcr.io/acme/python:3.11",
    annotations={"region": "eu"},
    attributes={"env": "prod"},
)


def settings(**given: Any) -> LokiSettings:
    return LokiSettings.model_validate(
        {"type": "loki", "endpoint": "http://127.0.0.1:3100", **given}
    )


def rendered(labels: Mapping[str, str], stream: Stream = STREAM) -> dict[str, str]:
    return dict(render_labels(parse_labels(labels), stream, SERVICE))


def refusal(**given: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(**given)
    return str(caught.value)


def test_by_default_a_stream_has_the_job_and_its_service() -> None:
    assert rendered(settings().labels) == {"job": "sandbox-forwarder", "service_name": "trainer"}


def test_own_labels_replace_the_default_ones() -> None:
    assert dict(settings(labels={"app": "x"}).labels) == {"app": "x"}


def test_every_name_of_the_closed_list_has_its_value() -> None:
    labels = {
        "a": "{service}",
        "b": "{image}",
        "c": "t-{tag:team=}",
        "d": "{annotation:region}",
        "e": "{attribute:env}",
        "f": "{{{sandbox_id}}}",
        "g": "{display_name}",
        "container": "{container}",
    }
    values = ["trainer", "python", "t-red", "eu", "prod", "{sbx-1}", "a run", "main"]
    assert rendered(labels) == dict(zip(labels, values, strict=True))


def test_a_label_without_a_value_is_left_out() -> None:
    assert rendered({"a": "{annotation:none}{tag:none=}", "job": "x"}) == {"job": "x"}


def test_a_value_is_cut_at_2048_bytes_and_never_inside_a_character() -> None:
    stream = Stream("s", "main", annotations={"long": "x" + "é" * 2000})
    value = rendered({"a": "{annotation:long}"}, stream)["a"]
    assert value == "x" + "é" * 1023


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"sandbox": "{sandbox_id}"}, "would make every sandbox a stream of its own"),
        ({"name": "x-{display_name}"}, 'or set "allow_high_cardinality: true"'),
    ],
)
def test_a_label_of_high_cardinality_is_refused_unless_allowed(
    labels: dict[str, str], text: str
) -> None:
    labels = {"job": "x", **labels}
    assert text in refusal(labels=labels)
    assert settings(labels=labels, allow_high_cardinality=True).labels == labels


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"a.b": "x"}, "letters, digits and _"),
        ({"1a": "x"}, "letters, digits and _"),
        ({"": "x"}, "letters, digits and _"),
        ({"__stream_shard__": "x"}, "letters, digits and _"),
        ({"a" * 1025: "x"}, "letters, digits and _"),
        ({"a": "{sandbox_id.__class__}"}, "an unknown name in braces"),
        ({"a": "{service!r:>1000000000}"}, "an unknown name in braces"),
        ({"a": "{contaner}"}, "did you mean {container}?"),
        ({"a": "{tag:}"}, "an unknown name in braces"),
        ({"a": "{service:x}"}, "an unknown name in braces"),
        ({"a": "{"}, "a stray brace"),
        ({"a": "x" * 2049}, "at most 2048 bytes"),
        ({"line": "x"}, "structured metadata of this name"),
        ({"container": "x{container}"}, "structured metadata of this name"),
        ({"gap_kind": "x"}, "structured metadata of this name"),
        ({f"l{n}": "x" for n in range(16)}, "at most 15 labels"),
        ({"a": "{tag:x}"}, "never empty"),
        ({}, "never empty"),
    ],
)
def test_labels_that_loki_would_refuse_are_refused_at_once(
    labels: dict[str, str], text: str
) -> None:
    assert text in refusal(labels=labels)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://logs.example.com", "https://logs.example.com/loki/api/v1/push"),
        ("https://logs.example.com/", "https://logs.example.com/loki/api/v1/push"),
        ("http://vl:9428/insert", "http://vl:9428/insert/loki/api/v1/push"),
        ("https://x.grafana.net/loki/api/v1/push", "https://x.grafana.net/loki/api/v1/push"),
        ("https://gate.example.com/push/?a=b", "https://gate.example.com/push?a=b"),
        ("https://gate.example.com/x?a=b", "https://gate.example.com/x/loki/api/v1/push?a=b"),
    ],
)
def test_the_path_is_put_behind_the_endpoint_unless_it_ends_in_push(
    endpoint: str, url: str
) -> None:
    assert settings(endpoint=endpoint).push_url == url


@pytest.mark.parametrize("tenant", ["", "a b", "a|b", "..", ".", "a/b", "x" * 151, "a\r\nb"])
def test_a_tenant_that_loki_has_not_is_refused(tenant: str) -> None:
    assert "a tenant has" in refusal(tenant=tenant)


def test_a_tenant_is_given_once() -> None:
    assert "exclude each other" in refusal(tenant="a", headers={"x-scope-orgid": "b"})


def test_loki_takes_no_zstd() -> None:
    assert "compression" in refusal(compression="zstd")


def unquoted(text: str) -> dict[str, str]:
    """Read `{a="b", c="d"}` as Go does: a reader of its own, character by character."""
    found: dict[str, str] = {}
    assert text[0] == "{"
    assert text[-1] == "}"
    rest = text[1:-1]
    while rest:
        name, rest = rest.split("=", 1)
        assert rest[0] == '"'
        value, at = "", 1
        while rest[at] != '"':
            if rest[at] != "\\":
                value, at = value + rest[at], at + 1
            elif rest[at + 1] in '"\\':
                value, at = value + rest[at + 1], at + 2
            else:
                size = {"u": 4, "U": 8}[rest[at + 1]]
                value += chr(int(rest[at + 2 : at + 2 + size], 16))
                at += 2 + size
        found[name] = value
        rest = rest[at + 1 :].removeprefix(", ")
    return found


@given(value=st.text(min_size=1, max_size=30))
def test_no_value_gets_out_of_its_quotes(value: str) -> None:
    labels = (("a", value), ("b", "x"))
    text = selector(labels)
    assert unquoted(text) == dict(labels)
    assert text.isprintable()


def test_hostile_values_are_written_out() -> None:
    labels = (("a", 'x", job="other'), ("b", "new\nline\\ \0 \u2028 \U0001f600"))
    assert selector(labels) == (
        r'{a="x\", job=\"other", b="new\u000aline\\ \u0000 \u2028 ' + '\U0001f600"}'
    )
