"""Keys of objects: what a template may be, and that no two objects ever have the same one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sinks.interface import Stream
from sinks.s3.keys import MORE_FIELDS, KeyTemplate
from sinks.s3.manifest import parse_stamp_text
from sinks.template import Template, TemplateError

STREAM = Stream("sbx-1", "main", display_name="My Sandbox")
STAMP_NS = 1_763_870_706_123_456_789
WINDOW = "0f3c9a61-0-2a"
FIRST, LAST = "20251123T040506.123456789Z", "20251123T040507.000000000Z"
LAST_NS = 1_763_870_707_000_000_000
DEFAULT = "logs/dt={date}/hour={hour}/{first}-{last}"


def key_of(
    text: str,
    stream: Stream = STREAM,
    *,
    window: str = WINDOW,
    first_ns: int = STAMP_NS,
    last_ns: int = LAST_NS,
) -> str:
    template = KeyTemplate.parse(text, ".ndjson.zst")
    return template.render(template.fields_of(stream, first_ns), first_ns, last_ns, window)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (DEFAULT, f"logs/dt=2025-11-23/hour=04/{FIRST}-{LAST}-{WINDOW}.ndjson.zst"),
        ("{first}", f"{FIRST}-{WINDOW}.ndjson.zst"),
        ("a/{window}/{first}", f"a/{WINDOW}/{FIRST}.ndjson.zst"),
        ("a/all.ndjson.zst", f"a/all-{WINDOW}.ndjson.zst"),
        ("{sandbox_id}/{container}/{last}", f"sbx-1/main/{LAST}-{WINDOW}.ndjson.zst"),
        ("{display_name}={first}={container}", f"My~20Sandbox={FIRST}=main-{WINDOW}.ndjson.zst"),
        ("a{{b}}/{hour}", f"a{{b}}/04-{WINDOW}.ndjson.zst"),
    ],
)
def test_a_key_has_what_the_template_says_the_window_and_the_extension(text: str, key: str) -> None:
    assert key_of(text) == key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logs/{first}.ndjson.gz", "ends in '.gz', but its objects in '.ndjson.zst'"),
        ("logs/{first}.ndjson", "ends in '.ndjson', but its objects in '.ndjson.zst'"),
        ("logs/{first}.parquet", "leave that out"),
        ("/logs/{first}", "does not begin with '/'"),
        ("logs//{first}", "empty folders"),
        ("./{first}", "empty folders and '.'"),
        ("a/./{first}", "empty folders and '.'"),
        ("a/../{first}", "'..' is not allowed"),
        ("a\n{first}", "control characters"),
        ("a\ud800{first}", "lone surrogate"),
        ("logs/", "it must end in a file name"),
        ("logs/.ndjson.zst", "it must end in a file name"),
        ("", "empty path"),
        ("{sandbox}", "unknown name {sandbox}: did you mean {sandbox_id}? Known names: "),
        ("{frist}", "did you mean {first}?"),
        ("{first.real}", "unknown name"),
        ("/".join(["{display_name}"] * 6), "a store takes 1,024"),
        ("x" * 241, "too much in one file name"),
        ("{display_name}-{first}-{container}", "{first} stands between two values"),
        ("{container}{window}{sandbox_id}/x", "{window} stands between two values"),
        ("{display_name}{{x}}a{container}-{last}.{sandbox_id}", "{last} stands between two values"),
    ],
)
def test_a_template_that_cannot_work_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        KeyTemplate.parse(text, ".ndjson.zst")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{first}-{display_name}-{container}",
        "{display_name}-{container}-{first}-{last}",
        "{display_name}/{first}/{container}",
        "{display_name}={first}={container}",
        "{display_name}}}{first}-{container}",
        "{display_name}ä{first}ä{container}",
        "{display_name}-{date}-{container}",
        "{sandbox_id}-{container}-{display_name}-{first}-{last}-{window}",
    ],
)
def test_a_stamp_that_no_value_can_be_taken_for_may_stand_anywhere(text: str) -> None:
    assert KeyTemplate.parse(text, ".ndjson.zst").template.text.startswith(text)


def test_only_date_and_hour_make_the_hour_of_a_line_matter() -> None:
    assert KeyTemplate.parse("{date}", "").by_hour
    assert KeyTemplate.parse("{hour}", "").by_hour
    assert not KeyTemplate.parse("{first}-{last}-{sandbox_id}", "").by_hour


def test_lines_whose_keys_differ_in_nothing_but_their_stamps_are_of_one_object() -> None:
    template = KeyTemplate.parse("{date}/{first}-{last}", "")
    one = template.fields_of(STREAM, STAMP_NS)

    assert one == template.fields_of(Stream("other", "main"), STAMP_NS + 3_600_000_000_000)
    assert one != template.fields_of(STREAM, STAMP_NS + 86_400_000_000_000)


@pytest.mark.parametrize(
    ("text", "root"),
    [(DEFAULT, "logs/"), ("a/b/c-{hour}", "a/b/"), ("{date}/x", ""), ("x", "")],
)
def test_the_root_is_the_folder_that_all_keys_are_in(text: str, root: str) -> None:
    assert KeyTemplate.parse(text, "").root == root


def test_keys_of_one_folder_are_in_the_order_of_their_first_stamps() -> None:
    stamps_ns = [0, 1, 999_999_999, 10**9, 60 * 10**9, STAMP_NS, 4_102_444_800_000_000_000]
    keys = [key_of("{first}-{last}", first_ns=ns, last_ns=ns) for ns in stamps_ns]

    assert all(one < other for one, other in pairwise(keys))
    assert [parse_stamp_text(key.partition("-")[0]) for key in keys] == stamps_ns


#: Text that is as hostile as names can be: of other keys, of paths, of nothing at all.
NAMES = st.text(max_size=300) | st.sampled_from(
    [
        *("", ".", "..", "/", "a/b", "a_b", "ä", "a\u0308", "\0", "\n", "%2e", "~2e", "A", "a"),
        *("\ud800", "x" * 5000, FIRST, f"a-{FIRST}", f"{FIRST}-c", f"{LAST}-c", "c"),
        *(WINDOW, f"a-{WINDOW}"),
    ]
)
STREAMS = st.builds(Stream, NAMES, NAMES, display_name=NAMES)
PIECES = st.sampled_from(
    [
        *("{sandbox_id}", "{container}", "{display_name}", "{date}", "{hour}"),
        *("{first}", "{last}", "{window}", "/", "-", "=", ".", "_", "a", "{{", "}}", "ü"),
    ]
)
WINDOWS = st.sampled_from(["0f3c9a61-0-2a", "0f3c9a61-2a-30", "0f3c9a62-0-2a", "ffffffff-2-a30"])
STAMPS_NS = st.integers(0, 3) | st.integers(0, 4_102_444_800_000_000_000)


@st.composite
def templates(draw: st.DrawFn) -> KeyTemplate:
    text = "".join(draw(st.lists(PIECES, max_size=12)))
    try:
        return KeyTemplate.parse(text, ".ndjson.zst")
    except TemplateError:
        assume(False)
        raise


@given(templates(), STREAMS, STAMPS_NS, STAMPS_NS, WINDOWS)
@example(KeyTemplate.parse("{container}/{display_name}", ""), Stream("", "x" * 999), 0, 0, WINDOW)
def test_every_key_is_one_that_all_stores_take(
    template: KeyTemplate, stream: Stream, one_ns: int, other_ns: int, window: str
) -> None:
    first_ns, last_ns = sorted([one_ns, other_ns])
    key = template.render(template.fields_of(stream, first_ns), first_ns, last_ns, window)

    assert len(key.encode()) <= 1024
    assert not key.startswith("/")
    assert not {"", ".", ".."}.intersection(key.split("/"))
    assert all(character >= " " and character != "\x7f" for character in key)
    assert key.startswith(template.root)
    assert window in key
    assert key.endswith(template.extension)


@given(templates(), STREAMS, STREAMS, STAMPS_NS, STAMPS_NS, WINDOWS, WINDOWS)
@example(
    KeyTemplate.parse("{display_name}={first}={container}", ""),
    Stream("", f"{LAST}-c", display_name="a"),
    Stream("", "c", display_name=f"a-{FIRST}"),
    *(STAMP_NS, LAST_NS),
    *(WINDOW, WINDOW),
)
def test_two_objects_never_have_the_same_key(
    template: KeyTemplate,
    one: Stream,
    other: Stream,
    one_ns: int,
    other_ns: int,
    one_window: str,
    other_window: str,
) -> None:
    ours, theirs = template.fields_of(one, one_ns), template.fields_of(other, other_ns)
    assume((ours, one_window) != (theirs, other_window))

    assert template.render(ours, one_ns, one_ns, one_window) != template.render(
        theirs, other_ns, other_ns, other_window
    )


def test_a_stamp_between_two_values_would_let_them_make_the_key_of_another_object() -> None:
    text = "{display_name}-{first}-{container}-{window}"
    unchecked = KeyTemplate(Template.parse(text, more=MORE_FIELDS), "")
    one = unchecked.fields_of(Stream("", f"{LAST}-c", display_name="a"), 0)
    other = unchecked.fields_of(Stream("", "c", display_name=f"a-{FIRST}"), 0)

    assert one != other
    assert unchecked.render(one, STAMP_NS, STAMP_NS, WINDOW) == unchecked.render(
        other, LAST_NS, LAST_NS, WINDOW
    )


@given(st.lists(STREAMS, min_size=1, max_size=4), STAMPS_NS)
def test_each_stream_has_objects_of_its_own_when_the_key_has_its_names_apart(
    streams: list[Stream], stamp_ns: int
) -> None:
    template = KeyTemplate.parse("{sandbox_id}/{container}/{first}", ".log")

    assert len({template.fields_of(stream, stamp_ns) for stream in streams}) == len(
        {(stream.sandbox_id, stream.container) for stream in streams}
    )
