"""What a good configuration gives, and how values come into it from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from forwarder.config.substitution import SubstitutionError, substitute
from tests.unit.config.config_support import BASE, ENV, LinesSettings

if TYPE_CHECKING:
    from tests.unit.config.config_support import Load, Refuse

NO_KEY = BASE + "source: {}\n"


def lines_sink(load: Load, keys: str, **env: str) -> LinesSettings:
    """A sink with these keys more."""
    text = BASE.replace("path: /p", f"path: /p, {keys}")
    sink = load(text, {**ENV, **env}).sinks["archive"]
    assert isinstance(sink, LinesSettings)
    return sink


def test_the_least_configuration_has_every_default(load: Load) -> None:
    settings = load(BASE)

    assert settings.state_dir == Path("/s")
    assert settings.sandboxes[0].id == "a"
    assert settings.sandboxes[0].containers == "all"
    assert settings.source.base_url == "https://api.cwsandbox.com"
    assert settings.source.overlap == 15.0
    assert settings.source.max_line_bytes == 1024 * 1024
    assert settings.spool.commit_interval == 0.05
    assert settings.admin.address == ("127.0.0.1", 9465)
    assert settings.shutdown.drain_timeout == 25.0
    assert settings.sinks["archive"].start == "oldest"


def test_settings_cannot_be_changed(load: Load) -> None:
    settings = load(BASE)

    with pytest.raises(ValidationError):
        settings.state_dir = Path("/t")


def test_every_value_reaches_its_setting(load: Load) -> None:
    settings = load("""\
state_dir: relative/state
source:
  base_url: http://[::1]:8080/prefix/
  protocol: grpc
  api_key: one
  overlap: 1.5s
  max_line_bytes: 64 KiB
  poll_interval: 250ms
  hold_interval: 1d
sandboxes:
  - tags: [training, prod]
    containers: [main, "2"]
    attributes: {deployment.environment.name: prod}
  - id: sbx-1
    containers: primary
sinks:
  a: {type: lines, path: "{sandbox_id}", start: now, files: 9, ratio: 1, compress: true}
  b-2_c: {type: lines, path: "{date}"}
spool: {commit_interval: 1s, buffer_bytes: 1GB, batch_bytes: 64KiB}
admin: {listen: "[::]:0", allow_remote: true}
log: {level: debug, format: json}
shutdown: {drain_timeout: 0s}
""")

    assert settings.state_dir == Path("relative/state")
    assert settings.source.base_url == "http://[::1]:8080/prefix"
    assert settings.source.protocol == "grpc"
    assert settings.source.overlap == 1.5
    assert settings.source.max_line_bytes == 65_536
    assert settings.source.hold_interval == 86_400.0
    assert settings.sandboxes[0].tags == ("training", "prod")
    assert settings.sandboxes[0].containers == ("main", "2")
    assert settings.sandboxes[0].attributes == {"deployment.environment.name": "prod"}
    assert settings.sandboxes[1].containers == "primary"
    assert list(settings.sinks) == ["a", "b-2_c"]
    assert settings.sinks["a"].start == "now"
    assert settings.spool.buffer_bytes == 10**9
    assert settings.admin.address == ("::", 0)
    assert settings.log.format == "json"
    assert settings.shutdown.drain_timeout == 0.0


def test_the_admin_endpoint_can_be_off(load: Load) -> None:
    assert load(BASE + "admin: {listen: off}\n").admin.address is None


def test_a_section_with_nothing_set_in_it_is_a_section_of_defaults(load: Load) -> None:
    text = BASE + "source:\nspool:\nadmin:\nlog: ~\nshutdown:\n  # nothing\n"

    assert load(text) == load(BASE)


def test_a_byte_order_mark_is_not_content(load: Load) -> None:
    assert load(b"\xef\xbb\xbf" + BASE.encode()) == load(BASE)


def test_json_is_yaml(load: Load) -> None:
    text = '{"state_dir": "/s", "sandboxes": [{"id": "a"}], '
    text += '"sinks": {"archive": {"type": "lines", "path": "/p"}}}'

    assert load(text) == load(BASE)


@pytest.mark.parametrize("word", ["no", "off", "1:30", "0o9", "1_000", ".inf", "1e999", "NULL0"])
def test_what_only_older_yaml_gave_a_meaning_is_text(word: str, load: Load) -> None:
    assert load(BASE.replace("id: a", f"id: {word}")).sandboxes[0].id == word


def test_numbers_may_be_octal_or_hexadecimal_as_in_yaml_1_2(load: Load) -> None:
    assert lines_sink(load, "files: 0o7").files == 7
    assert lines_sink(load, "files: 0x8").files == 8
    assert lines_sink(load, "ratio: 1.5e1").ratio == 15.0


def test_the_address_comes_from_the_environment_when_it_is_left_out(load: Load) -> None:
    env = {**ENV, "CWSANDBOX_BASE_URL": "http://127.0.0.1:99"}

    assert load(BASE, env).source.base_url == "http://127.0.0.1:99"
    assert (
        load(BASE + "source: {base_url: 'https://other'}\n", env).source.base_url == "https://other"
    )


def test_the_key_comes_from_the_environment_when_no_credentials_are_given(load: Load) -> None:
    env = {"CWSANDBOX_API_KEY": "from-env"}

    assert load(NO_KEY, env).source.auth_headers() == {"authorization": "Bearer from-env"}
    given = load(BASE + "source: {api_key: given}\n", env)
    assert given.source.auth_headers() == {"authorization": "Bearer given"}
    other = load(BASE + "source: {wandb_api_key: w}\n", env)
    assert other.source.auth_headers() == {"x-wandb-api-key": "w"}


def test_plain_http_to_another_machine_needs_a_word_of_consent(load: Load) -> None:
    source = "source: {base_url: 'http://api.example.com', allow_plaintext: true}\n"

    assert load(BASE + source).source.base_url == "http://api.example.com"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.53", "[::1]", "api.localhost"])
def test_plain_http_to_this_machine_needs_none(host: str, load: Load) -> None:
    source = f"source: {{base_url: 'http://{host}:1'}}\n"

    assert load(BASE + source).source.base_url == f"http://{host}:1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "a-value"),
        ("x${A}y${A}", "xa-valueya-value"),
        ("${MISSING:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${EMPTY}", ""),
        ("${MISSING:-}", ""),
        ("${A:-other}", "a-value"),
        ("${MISSING:-a:-b}", "a:-b"),
        ("${MISSING:-$A}", "$A"),
        ("$${A}", "${A}"),
        ("$$$${A}", "$${A}"),
        ("$$${A}", "$a-value"),
        ("$A", "$A"),
        ("cost: 5$", "cost: 5$"),
        ("{sandbox_id}/${A}", "{sandbox_id}/a-value"),
        ("${REFERENCE}", "${A}"),
        ("${DOLLARS}", "$$"),
    ],
)
def test_references_are_replaced_once(text: str, expected: str) -> None:
    env = {"A": "a-value", "EMPTY": "", "REFERENCE": "${A}", "DOLLARS": "$$"}

    assert substitute(text, env) == expected


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A", "${A:other}", "${A-other}"])
def test_a_malformed_reference_is_an_error(text: str) -> None:
    with pytest.raises(SubstitutionError, match="malformed"):
        substitute(text, {"A": "1"})


def test_a_missing_variable_is_named(refuse: Refuse) -> None:
    message, _ = refuse(BASE + "source: {api_key: '${NO_SUCH_KEY}'}\n")

    assert message == (
        "config.yaml:4: source.api_key: the environment variable NO_SUCH_KEY is not set; "
        "set it, or write ${NO_SUCH_KEY:-default}"
    )


@pytest.mark.parametrize(
    "value",
    [
        "a: b",
        "{a: b}",
        "[a]",
        "a\nb: c",
        "# text",
        "*alias",
        "!tag",
        "- a",
        "'",
        "12",
        "~",
        " ",
    ],
)
def test_what_is_put_in_never_changes_the_structure(value: str, load: Load) -> None:
    for written in ("${VALUE}", "'${VALUE}'", '"${VALUE}"', ">-\n      ${VALUE}"):
        text = BASE.replace("[{id: a}]", f"\n  - id: {written}")

        selectors = load(text, {**ENV, "VALUE": value}).sandboxes

        assert [selector.id for selector in selectors] == [value]


def test_a_whole_value_may_stand_for_a_number_or_a_truth_value(load: Load) -> None:
    sink = lines_sink(
        load,
        "files: '${FILES}', ratio: '${RATIO}', compress: '${COMPRESS}', chunk: '${CHUNK:-2KiB}'",
        FILES="3",
        RATIO="2",
        COMPRESS="true",
    )

    assert (sink.files, sink.ratio, sink.compress, sink.chunk) == (3, 2.0, True, 2048)


def test_a_truth_value_of_a_section_may_come_from_the_environment(load: Load) -> None:
    text = BASE + "admin: {listen: '0.0.0.0:80', allow_remote: '${REMOTE}'}\n"

    assert load(text, {**ENV, "REMOTE": "true"}).admin.allow_remote


def test_a_written_text_does_not_stand_for_a_number(refuse: Refuse) -> None:
    message, _ = refuse(BASE.replace("path: /p", "path: /p, files: '3'"))

    assert message == 'config.yaml:3: sinks.archive.files: expected a whole number, got "3"'


@pytest.mark.parametrize("value", ["1", "yes", "on", "True "])
def test_only_true_and_false_are_truth_values(value: str, refuse: Refuse) -> None:
    message, _ = refuse(BASE + "admin: {allow_remote: '${R}'}\n", {**ENV, "R": value})

    assert message.endswith('expected true or false, got "${R}"')


def test_keys_and_comments_are_left_alone(load: Load) -> None:
    text = BASE.replace("id: a", "id: a, attributes: {'${NOT_SET}': x}") + "# ${NOT_SET}\n"

    assert load(text).sandboxes[0].attributes == {"${NOT_SET}": "x"}
