"""How the OTLP sink is configured: by the file, and by the specification's variables."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from forwarder.config import load_settings
from sinks.network import HeaderFile
from sinks.otlp import OtlpSettings
from sinks.settings import Secret
from tests.unit.sinks.otlp_support import load, refusal

OTLP = "OTEL_EXPORTER_OTLP_"
LOGS = "OTEL_EXPORTER_OTLP_LOGS_"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("protocol: http/protobuf", "http://localhost:4318/v1/logs"),
        ("protocol: http/json", "http://localhost:4318/v1/logs"),
        ("protocol: grpc", "http://localhost:4317"),
        ("endpoint: 'https://otlp.example.com'", "https://otlp.example.com/v1/logs"),
        ("endpoint: 'https://otlp.example.com/'", "https://otlp.example.com/v1/logs"),
        ("endpoint: 'https://h/some/base/'", "https://h/some/base/v1/logs"),
        ("endpoint: 'https://h/some/base'", "https://h/some/base/v1/logs"),
        ("logs_endpoint: 'https://h/exactly?this=one'", "https://h/exactly?this=one"),
        ("logs_endpoint: 'https://h/slash/'", "https://h/slash/"),
        ("protocol: grpc, endpoint: 'https://h:4317'", "https://h:4317"),
        ("protocol: grpc, logs_endpoint: 'https://h:4317/'", "https://h:4317/"),
    ],
)
def test_a_base_address_gets_the_path_and_a_whole_one_stays(
    tmp_path: Path, text: str, url: str
) -> None:
    assert load(tmp_path, text).url == url


def test_the_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    settings = load(tmp_path, "start: oldest")
    assert (settings.protocol, settings.compression, settings.severity) == (
        *("http/protobuf", "gzip"),
        "off",
    )
    assert (settings.timeout, settings.in_flight, settings.workers) == (30, 4, 0)
    assert settings.encoding.max_bytes == 64 * 1024 * 1024
    assert settings.grpc.max_message == 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("endpoint: 'http://h', logs_endpoint: 'http://h'", "logs_endpoint", "exclude each other"),
        ("endpoint: 'localhost:4318'", "endpoint", "expected a URL"),
        ("endpoint: 'http://h/?a=b'", "endpoint", 'give the whole address as "logs_endpoint"'),
        ("protocol: http", "protocol", '"http/protobuf"'),
        ("protocol: grpc, endpoint: 'http://h/path'", "endpoint", "has no path"),
        ("protocol: grpc, compression: zstd", "compression", 'gRPC knows "gzip" and "none"'),
        (
            "protocol: grpc, tls: {insecure_skip_verify: true}",
            "tls.insecure_skip_verify",
            "always verifies",
        ),
        ("protocol: grpc, retry_statuses: [500]", "retry_statuses", "retry_codes"),
        ("protocol: grpc, grpc: {retry_codes: [OK]}", "grpc.retry_codes[0]", '"INTERNAL"'),
        ("protocol: grpc, headers: {grpc-timeout: 1s}", "headers.grpc-timeout", "not the name"),
        ("protocol: grpc, headers: {a-bin: x}", "headers.a-bin", "not the name"),
        ("protocol: grpc, headers: {'a*b': x}", 'headers."a*b"', "not the name"),
        ("grpc: {max_message: 8MiB}", "grpc", 'needs "protocol: grpc"'),
        ("grpc: {max_message: 1GiB}, protocol: grpc", "grpc.max_message", "between"),
        ("endpoint: 'http://h', bearer_token: t", "endpoint", "in the clear"),
        (
            "protocol: grpc, endpoint: 'http://h', headers: {x-key: t}",
            "endpoint",
            "in the clear",
        ),
        ("severity: guess", "severity", '"detect"'),
    ],
)
def test_what_cannot_work_is_refused_at_its_key(
    tmp_path: Path, text: str, at: str, why: str
) -> None:
    path, said = refusal(tmp_path, text)
    assert (path, why in said) == (at, True), said


def test_without_the_library_grpc_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    path, said = refusal(tmp_path, "protocol: grpc")
    assert path == "protocol"
    assert 'needs the extra "grpc": pip install "sandbox-forwarder[grpc]"' in said
    assert load(tmp_path, "protocol: http/json").protocol == "http/json"


def test_batches_for_grpc_leave_room_for_what_encoding_adds(tmp_path: Path) -> None:
    assert load(tmp_path, "start: now").plan.max_bytes == 4 << 20
    assert load(tmp_path, "protocol: grpc").plan.max_bytes == 2 << 20
    large = load(tmp_path, "protocol: grpc, grpc: {max_message: 16MiB}").plan
    assert (large.max_bytes, large.in_flight, large.timeout_s) == (4 << 20, 4, 30)


class TestEnvironment:
    @pytest.mark.parametrize(
        ("env", "url"),
        [
            ({OTLP + "ENDPOINT": "https://all:4318"}, "https://all:4318/v1/logs"),
            ({LOGS + "ENDPOINT": "https://logs:4318/x"}, "https://logs:4318/x"),
            ({LOGS + "ENDPOINT": "https://logs:4318"}, "https://logs:4318"),
            ({OTLP + "ENDPOINT": "https://a", LOGS + "ENDPOINT": "https://b"}, "https://b"),
            ({OTLP + "ENDPOINT": "https://a", LOGS + "ENDPOINT": ""}, "https://a/v1/logs"),
            ({OTLP + "ENDPOINT": ""}, "http://localhost:4318/v1/logs"),
        ],
    )
    def test_the_endpoint_for_logs_is_exact_and_the_other_a_base(
        self, tmp_path: Path, env: dict[str, str], url: str
    ) -> None:
        assert load(tmp_path, "start: now", env).url == url

    @pytest.mark.parametrize(
        ("insecure", "url"),
        [
            ({}, "https://collector:4317"),
            ({OTLP + "INSECURE": "True"}, "http://collector:4317"),
            ({OTLP + "INSECURE": "true", LOGS + "INSECURE": "false"}, "https://collector:4317"),
        ],
    )
    def test_a_target_of_grpc_has_no_scheme(
        self, tmp_path: Path, insecure: dict[str, str], url: str
    ) -> None:
        env = {OTLP + "ENDPOINT": "collector:4317", LOGS + "PROTOCOL": "grpc", **insecure}
        settings = load(tmp_path, "start: now", env)
        assert (settings.protocol, settings.url) == ("grpc", url)

    def test_every_variable_has_its_key(self, tmp_path: Path) -> None:
        env = {
            OTLP + "PROTOCOL": "http/json",
            OTLP + "COMPRESSION": "none",
            OTLP + "TIMEOUT": "2500",
            OTLP + "HEADERS": "x-tenant=seven, Authorization=Basic%20a%3D%3D,empty=",
            OTLP + "CERTIFICATE": "/ca.pem",
            OTLP + "CLIENT_CERTIFICATE": "/cert.pem",
            OTLP + "CLIENT_KEY": "/key.pem",
        }
        settings = load(tmp_path, "start: now", env)
        assert (settings.protocol, settings.compression) == ("http/json", "none")
        assert settings.timeout == 2.5
        assert settings.headers == {
            "x-tenant": Secret("seven"),
            "Authorization": Secret("Basic a=="),
        }
        tls = settings.tls
        assert (tls.ca_file, tls.cert_file, tls.key_file) == (
            *(Path("/ca.pem"), Path("/cert.pem")),
            Path("/key.pem"),
        )

    def test_what_is_for_logs_stands_before_what_is_for_all(self, tmp_path: Path) -> None:
        env = {
            name + key: value + str(number)
            for number, name in enumerate((OTLP, LOGS))
            for key, value in {"TIMEOUT": "100", "HEADERS": "k=v", "CERTIFICATE": "/ca"}.items()
        }
        settings = load(tmp_path, "start: now", env)
        assert settings.timeout == 1.001
        assert settings.headers == {"k": Secret("v1")}
        assert settings.tls.ca_file == Path("/ca1")

    def test_the_file_stands_before_the_environment(self, tmp_path: Path) -> None:
        env = {
            LOGS + "ENDPOINT": "https://logs",
            OTLP + "PROTOCOL": "grpc",
            OTLP + "HEADERS": "k=v",
            OTLP + "TIMEOUT": "1000",
            OTLP + "CERTIFICATE": "/env.pem",
            OTLP + "CLIENT_CERTIFICATE": "/client.pem",
        }
        text = (
            "endpoint: 'https://file', protocol: http/json, headers: {}, timeout: 3s, "
            "tls: {ca_file: /file.pem}"
        )
        settings = load(tmp_path, text, env)
        assert settings.url == "https://file/v1/logs"
        assert (settings.protocol, settings.headers, settings.timeout) == ("http/json", {}, 3)
        assert settings.tls.ca_file == Path("/file.pem")
        assert settings.tls.cert_file == Path("/client.pem")

    def test_a_login_of_the_file_is_not_mixed_with_one_of_the_environment(
        self, tmp_path: Path
    ) -> None:
        env = {OTLP + "HEADERS": "authorization=Bearer%20env,x-tenant=seven"}
        settings = load(tmp_path, "bearer_token: file", env)
        assert settings.headers == {"x-tenant": Secret("seven")}

    @pytest.mark.parametrize(
        ("end", "value", "at"),
        [
            ("TIMEOUT", "soon", "timeout"),
            ("PROTOCOL", "hidden/thing", "protocol"),
            ("HEADERS", "hidden without a sign", "headers"),
        ],
    )
    def test_a_wrong_variable_is_named_and_not_shown(
        self, tmp_path: Path, end: str, value: str, at: str
    ) -> None:
        path, said = refusal(tmp_path, "start: now", {LOGS + end: value})
        assert path == at
        assert end in said
        assert "hidden" not in said

    def test_an_address_that_is_none_is_refused_at_the_key_it_stands_for(
        self, tmp_path: Path
    ) -> None:
        path, said = refusal(tmp_path, "start: now", {LOGS + "ENDPOINT": "https://hidden:0"})
        assert path == "logs_endpoint"
        assert "expected a URL" in said
        assert "hidden" not in said

    def test_credentials_of_the_environment_do_not_go_over_plaintext(self, tmp_path: Path) -> None:
        env = {OTLP + "ENDPOINT": "http://far-away", OTLP + "HEADERS": "k=v"}
        assert "in the clear" in refusal(tmp_path, "start: now", env)[1]

    def test_other_programs_variables_are_left_alone(self, tmp_path: Path) -> None:
        env = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t", "OTEL_SERVICE_NAME": "x"}
        assert load(tmp_path, "start: now", env) == load(tmp_path, "start: now")


PAGE = (Path(__file__).parents[3] / "docs" / "sinks" / "otlp.md").read_text("utf-8")


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_configurations_of_the_documentation_are_taken(tmp_path: Path, block: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"state_dir: /s\nsandboxes: [{{id: a}}]\n{block}")
    env = {"CWSANDBOX_API_KEY": "key"}
    (sink,) = load_settings(file, sink_types={"otlp": OtlpSettings}, env=env).sinks.values()
    assert isinstance(sink, OtlpSettings)


def test_every_key_is_documented() -> None:
    undocumented = {key for key in OtlpSettings.model_fields if f"`{key}`" not in PAGE}
    assert undocumented == {"type"}


def test_a_header_may_stand_in_a_file() -> None:
    given: dict[str, Any] = {"headers": {"api-key": {"file": "/run/key"}}}
    assert OtlpSettings.model_validate(given).headers == {
        "api-key": HeaderFile(file=Path("/run/key"))
    }
