"""What an operator reads when a configuration is wrong: the exact message of each mistake."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forwarder.config import InvalidConfigError, load_settings
from forwarder.config.reader import MAX_FILE_BYTES, MAX_VALUES
from forwarder.errors import ConfigError
from tests.unit.config.config_support import BASE, ENV, SINK_TYPES

if TYPE_CHECKING:
    from tests.unit.config.config_support import Refuse


@dataclass(frozen=True)
class Case:
    """One section of the table."""

    name: str
    env: dict[str, str]
    text: str
    message: str


def _read_table() -> list[Case]:
    table = Path(__file__).with_name("broken_configurations.txt").read_text("utf-8")
    return [_read_case(section) for section in re.split(r"^=== ", table, flags=re.MULTILINE)[1:]]


def _read_case(section: str) -> Case:
    head, message = section.split(">>>\n")
    name, *lines = head.splitlines(keepends=True)
    settings = [line[1:].strip() for line in lines if line.startswith("$")]
    env = dict(setting.split("=") for setting in settings if setting)
    text = "".join(line for line in lines if not line.startswith("$"))
    return Case(name.strip(), env if settings else dict(ENV), text, message.strip())


CASES = _read_table()


def test_the_table_covers_a_good_part_of_what_can_go_wrong() -> None:
    assert len(CASES) >= 80


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_broken_configuration_is_refused_with_exactly_this_message(
    case: Case, refuse: Refuse
) -> None:
    message, problems = refuse(case.text, case.env)

    assert message == case.message
    assert [str(problem) for problem in problems] == case.message.splitlines()


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^.*/absent\.yaml: no such file$"):
        load_settings(tmp_path / "absent.yaml", sink_types=SINK_TYPES, env=ENV)


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r": is a directory; name the file in it$"):
        load_settings(tmp_path, sink_types=SINK_TYPES, env=ENV)


def test_a_path_through_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r": cannot be read: Not a directory$"):
        load_settings(tmp_path / "file" / "config.yaml", sink_types=SINK_TYPES, env=ENV)


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(refuse: Refuse) -> None:
    message, _ = refuse(BASE.encode() + b"log: {level: \xe9}\n")

    assert message == "config.yaml:4: not UTF-8 text"


def test_a_control_character_is_refused_with_its_line(refuse: Refuse) -> None:
    message, _ = refuse(BASE + "log: {level: \x01}\n")

    assert message == "config.yaml:4: not valid YAML: a control character"


def test_half_a_character_is_refused(refuse: Refuse) -> None:
    assert refuse(BASE + 'log: {level: "\\ud800"}\n')[0] == (
        "config.yaml:4: log.level: not valid Unicode text"
    )
    assert refuse(BASE + '"\\ud800": 1\n')[0] == (
        "config.yaml:4: a key that is not valid Unicode text"
    )


def test_a_file_of_more_than_a_mebibyte_is_refused(refuse: Refuse) -> None:
    message, _ = refuse(BASE + "#" * MAX_FILE_BYTES)

    assert message == "config.yaml: larger than 1 MiB"


def test_a_file_with_too_many_values_is_refused(refuse: Refuse) -> None:
    message, _ = refuse(BASE + f"log: [{'a,' * MAX_VALUES}]\n")

    assert message == "config.yaml:4: more than 50,000 values"


def test_an_alias_bomb_is_refused_without_expanding_it(refuse: Refuse) -> None:
    levels = "".join(
        f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]\n" for level in range(1, 12)
    )

    message, problems = refuse(BASE + "l0: &l0 [a]\n" + levels)

    assert message.startswith("config.yaml:4: l0: anchors (&name) are not supported\n")
    assert "config.yaml:5: l1[9]: aliases (*name) are not supported" in message
    assert len(problems) < 200


def test_nesting_without_end_is_refused_before_it_is_walked(refuse: Refuse) -> None:
    for opening in ("[" * 10_000, "{a: " * 10_000):
        message, _ = refuse(BASE + f"log: {opening}\n")

        assert message == "config.yaml:4: nested deeper than 50 levels"


def test_only_the_first_hundred_problems_are_printed(refuse: Refuse) -> None:
    message, problems = refuse(BASE + "".join(f"wrong{n}: 1\n" for n in range(150)))

    assert len(problems) == 150
    assert message.splitlines()[100:] == ["... and 50 more"]


def test_a_very_long_value_is_shown_by_its_beginning(refuse: Refuse) -> None:
    message, _ = refuse(BASE + f"log: {{level: {'x' * 10_000}}}\n")

    assert message.endswith(f'got "{"x" * 60}..."')


def test_a_value_that_would_control_the_terminal_is_escaped(refuse: Refuse) -> None:
    message, _ = refuse(BASE + 'log: {level: "\\e[2J\\u202e"}\n')

    assert message.endswith(r'got "\u001b[2J\u202e"')


def test_a_key_with_a_newline_stays_on_one_line(refuse: Refuse) -> None:
    message, _ = refuse(BASE + '"a\\nb": 1\n')

    assert message.startswith(r'config.yaml:4: "a\nb": unknown key')
    assert len(message.splitlines()) == 1


def test_a_configuration_without_any_kind_of_sink_says_so(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(BASE)

    with pytest.raises(InvalidConfigError) as caught:
        load_settings(file, sink_types={}, env=ENV)

    assert caught.value.problems[0].text == 'unknown kind of sink "lines"; none is known'
    assert caught.value.problems[0].path == "sinks.archive.type"
    assert caught.value.problems[0].line == 3


def test_loading_creates_nothing(refuse: Refuse, tmp_path: Path) -> None:
    refuse(BASE.replace("/s", str(tmp_path / "state")) + "log: {level: loud}\n")

    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
