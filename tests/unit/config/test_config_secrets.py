"""A secret is in the request that needs it, and nowhere else."""

from __future__ import annotations

import io
import os
import traceback
from contextlib import redirect_stderr
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from forwarder.config import InvalidConfigError, SourceSettings, describe
from forwarder.errors import CredentialsRefusedError
from sinks.settings import Secret
from tests.unit.config.config_support import BASE, ENV, LinesSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.config.config_support import Load

CANARY = "canary-4711"


def assert_no_canary(*texts: object) -> None:
    for text in texts:
        assert CANARY not in str(text)
        assert CANARY not in repr(text)


@pytest.mark.parametrize(
    ("section", "env"),
    [
        (f"source: {{api_key: {CANARY}}}", ENV),
        (f"source: {{wandb_api_key: {CANARY}, wandb_entity: e}}", ENV),
        ("source: {api_key: '${KEY}'}", {"KEY": CANARY}),
        ("source: {}", {"CWSANDBOX_API_KEY": CANARY}),
    ],
)
def test_a_loaded_secret_is_in_no_description(
    section: str, env: dict[str, str], load: Load
) -> None:
    settings = load(BASE + section, env)

    assert CANARY in str(settings.source.auth_headers())
    dumps = (settings.model_dump(), settings.model_dump_json(), settings.source.model_dump())
    assert_no_canary(settings, settings.source, describe(settings), *dumps)


def test_a_sink_s_secret_is_in_no_description(load: Load) -> None:
    text = BASE.replace("path: /p", f"path: /p, token: {CANARY}, headers: {{x: {CANARY}}}")
    settings = load(text)

    sink = settings.sinks["archive"]
    assert isinstance(sink, LinesSettings)
    assert sink.headers["x"] == Secret(CANARY)
    assert describe(settings)["sinks"]["archive"]["headers"] == {"x": "***"}
    assert_no_canary(settings, sink, describe(settings), settings.model_dump())


@pytest.mark.parametrize(
    "text",
    [
        f"source: {{api_key: {CANARY}, api_key_file: /f}}",
        f"source: {{api_key: '{CANARY} x'}}",
        f"source: {{api_key: [{CANARY}]}}",
        f"source: {{api_key: {{{CANARY}: {CANARY}}}}}",
        f"source: {{api_kye: {CANARY}}}",
        f"source: {CANARY}",
        f"source: [{CANARY}]",
        f"source: {{wandb_api_key: {CANARY}, api_key_file: /f}}",
        f"source: {{base_url: 'https://u:{CANARY}@h/'}}",
        f"source: {{base_url: 'https://{CANARY}@h/'}}",
        f"source: {{base_url: 'https://h/?token={CANARY}'}}",
        f"source: {{base_url: 'ftp://u:{CANARY}@h/?token={CANARY}'}}",
        f"source: {{api_key: *{CANARY}}}",
        f"source: {{api_key: &{CANARY} x}}",
        f"source: {{api_key: !{CANARY} x}}",
        f"source: {{api_key: {CANARY}: x}}",
        f"source: {{api_key: '{CANARY}",
        f'source: {{api_key: "{CANARY}\\q"}}',
        f"source: {{api_key: {CANARY}",
        f"source: {{api_key: %{CANARY}}}",
        f"source:\n\tapi_key: {CANARY}",
        f"source: {{api_key: {CANARY}\x01}}",
        "source: {api_key: '${KEY}', api_key_file: '${KEY}'}",
        "log: {level: '${KEY}', '${KEY}': x}",
        "admin: {listen: '${KEY}', allow_remote: '${KEY}'}",
        "spool: {commit_interval: '${KEY}', buffer_bytes: '${KEY}'}",
        "source: {base_url: '${KEY}', protocol: '${KEY}'}",
        "sinks2: '${KEY}'",
    ],
)
def test_no_error_repeats_a_secret(text: str, load: Load) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        load(BASE + text + "\n", {**ENV, "KEY": CANARY})

    printed = io.StringIO()
    with redirect_stderr(printed):
        traceback.print_exception(caught.value)
    assert_no_canary(caught.value, caught.value.problems, printed.getvalue())


@pytest.mark.parametrize(
    "sink",
    [
        f"{{type: lines, path: /p, token: {CANARY}, token_file: /t}}",
        f"{{type: lines, path: /p, token: [{CANARY}]}}",
        f"{{type: lines, path: /p, headers: {CANARY}}}",
        f"{{type: lines, path: /p, headers: {{x: [{CANARY}]}}}}",
        f"{{type: lines, path: /p, tokne: {CANARY}}}",
        "{type: lines, path: '${KEY}/'}",
        "{type: lines, path: /p, format: '${KEY}', start: '${KEY}'}",
        "{type: lines, path: /p, files: '${KEY}', chunk: '${KEY}'}",
        "{type: '${KEY}', path: /p}",
        CANARY,
    ],
)
def test_no_error_of_a_sink_repeats_a_secret(sink: str, load: Load) -> None:
    text = f"state_dir: /s\nsandboxes: [{{id: a}}]\nsinks: {{archive: {sink}}}\n"

    with pytest.raises(InvalidConfigError) as caught:
        load(text, {"KEY": CANARY, **ENV})

    assert_no_canary(caught.value, caught.value.problems)


def test_an_error_from_python_code_hides_its_input_too() -> None:
    with pytest.raises(ValidationError) as caught:
        SourceSettings.model_validate({"api_key": f"{CANARY} x"})

    assert_no_canary(caught.value)


def test_a_key_file_is_read_at_every_use(tmp_path: Path) -> None:
    file = tmp_path / "key"
    source = SourceSettings(api_key_file=file)

    file.write_text("first\n")
    assert source.auth_headers() == {"authorization": "Bearer first"}
    file.write_text("  second")
    assert source.auth_headers() == {"authorization": "Bearer second"}


def test_weights_and_biases_credentials_have_their_own_headers(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("w")
    source = SourceSettings(
        wandb_api_key_file=file,
        wandb_entity="team",
        wandb_project="project",
        wandb_host="wandb.example.com",
    )

    assert source.auth_headers() == {
        "x-wandb-api-key": "w",
        "x-entity-id": "team",
        "x-project-name": "project",
        "x-wandb-host": "wandb.example.com",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\xff", "not UTF-8 text"),
        (f"{CANARY} two\n".encode(), "not a key: expected printable ASCII without spaces"),
        (f"{CANARY}\nx-evil: 1".encode(), "not a key: expected printable ASCII without spaces"),
        (CANARY.encode() * 10_000, "too large for a secret"),
    ],
)
def test_a_key_file_with_no_key_in_it_holds_the_source(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)

    with pytest.raises(CredentialsRefusedError) as caught:
        SourceSettings(api_key_file=file).auth_headers()

    assert str(caught.value).startswith("source.api_key_file: ")
    assert str(caught.value).endswith(reason)
    assert caught.value.code == "unauthenticated"
    assert_no_canary(caught.value, "".join(traceback.format_exception(caught.value)))


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = SourceSettings(api_key_file=tmp_path / "absent")

    with pytest.raises(CredentialsRefusedError, match=r"/absent: No such file or directory$"):
        source.auth_headers()


def test_a_directory_is_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(CredentialsRefusedError, match=r"a directory$|not a regular file$"):
        SourceSettings(api_key_file=tmp_path).auth_headers()


def test_a_pipe_is_no_key_file_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(CredentialsRefusedError, match="not a regular file"):
        SourceSettings(api_key_file=tmp_path / "pipe").auth_headers()


def test_loading_does_not_read_the_key_file(load: Load) -> None:
    settings = load(BASE + "source: {api_key_file: /no/such/file}\n")

    assert describe(settings)["source"]["api_key_file"] == "/no/such/file"
