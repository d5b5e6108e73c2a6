"""Values in path templates: never two names for one, never one name for two, never a way out."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from sinks.interface import Stream
from sinks.template import MAX_VALUE_BYTES, Template, safe_name

#: Many pairs of these differ only in what an unsafe encoding would lose.
tricky = st.text(st.sampled_from("aAb/._-~2fe0 \0\n\\%é\u0301"), max_size=8)
values = st.one_of(tricky, st.text(max_size=300), st.text(min_size=60, max_size=80))


@given(values, values)
def test_two_values_have_one_name_only_if_they_are_one(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)


@given(values, st.integers(40, MAX_VALUE_BYTES))
def test_a_name_is_a_harmless_piece_of_a_file_name(value: str, max_bytes: int) -> None:
    name = safe_name(value, max_bytes)
    assert re.fullmatch(r"[A-Za-z0-9_~][A-Za-z0-9._~-]*", name)
    assert len(name) <= max_bytes


@given(values, values, values, st.integers(0, 2**63 - 1))
def test_values_never_add_or_remove_a_path_component(
    sandbox_id: str, container: str, display_name: str, stamp_ns: int
) -> None:
    template = Template.parse("/root/{sandbox_id}/{date}-{hour}-{container}/x-{display_name}.log")
    path = template.render(Stream(sandbox_id, container, display_name=display_name), stamp_ns)
    names = path.split("/")
    assert names[:2] == ["", "root"]
    assert len(names) == 5
    assert all(0 < len(name) <= 255 and name not in {".", ".."} for name in names[1:])


@given(st.lists(st.sampled_from(["/", "a", "{{", "}}", "é", "{hour}", "{sandbox_id}", "."])))
def test_the_literal_text_is_kept_as_written(pieces: list[str]) -> None:
    text = "/" + "".join(pieces[:20]) + "end"
    if "/../" in text or text.count("{sandbox_id}") > 1:
        return
    stream = Stream("sbx", "main")
    expected = text.replace("{hour}", "01").replace("{sandbox_id}", "sbx")
    expected = expected.replace("{{", "{").replace("}}", "}")
    assert Template.parse(text).render(stream, 3_600_000_000_000) == expected
