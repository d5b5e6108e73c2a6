"""What an operator reads when a network sink's section is wrong: the exact message of each mistake.

Each section is written as a flow mapping, `{type: otlp, ...}`, of the sink `out`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forwarder.config import InvalidConfigError, load_settings
from sinks.registry import BUILTIN

if TYPE_CHECKING:
    from collections.abc import Mapping

SINK_TYPES = {name: kind.settings for name, kind in BUILTIN.items()}
ENV: Mapping[str, str] = {"CWSANDBOX_API_KEY": "key"}

OTLP = 'type: otlp, endpoint: "https://otlp.example.com"'
LOKI = 'type: loki, endpoint: "https://loki.example.com"'
SEARCH = 'type: elasticsearch, endpoint: "https://search.example.com"'
HOOK = 'type: http, endpoint: "https://hooks.example.com/in"'

IN_THE_CLEAR = (
    "endpoint: http:// would send the credentials in the clear; use https://, or set"
    ' "allow_plaintext: true"'
)
NO_URL = 'endpoint: expected a URL such as "https://logs.example.com:4318"'

ENDPOINTS = {
    "type: otlp, endpoint: otlp.example.com": NO_URL,
    "type: otlp, endpoint: otlp.example.com:4317": NO_URL,
    'type: loki, endpoint: "ftp://loki.example.com"': NO_URL,
    'type: elasticsearch, endpoint: "https://"': NO_URL,
    "type: http, endpoint: /in": NO_URL,
    'type: http, endpoint: "https://robot:secret@hooks.example.com"': (
        "endpoint: a URL must not hold credentials; use headers, bearer_token or username"
    ),
    'type: http, endpoint: "http://169.254.169.254/latest"': (
        "endpoint: link-local addresses, such as those of metadata services, are refused"
    ),
    'type: otlp, endpoint: "https://otlp.example.com?key=secret"': (
        'endpoint: a base address has no "?"; give the whole address as "logs_endpoint", got'
        ' "https://otlp.example.com?***"'
    ),
    f'{OTLP}, logs_endpoint: "https://otlp.example.com/v1/logs"': (
        'logs_endpoint: "endpoint" and "logs_endpoint" exclude each other'
    ),
    'type: otlp, protocol: grpc, endpoint: "https://otlp.example.com/v1/logs"': (
        'endpoint: an address for gRPC has no path, got "https://otlp.example.com/v1/logs"'
    ),
    "type: http": "endpoint: is required: Where lines are sent; exactly as written, with its path"
    " and query",
    "type: loki": "endpoint: is required: The server's address; `/loki/api/v1/push` is put behind"
    " it, unless its path ends in `/push` already",
}

CREDENTIALS = {
    'type: otlp, endpoint: "http://otlp.example.com", bearer_token: secret': IN_THE_CLEAR,
    'type: otlp, endpoint: "http://otlp.example.com", bearer_token_file: /t': IN_THE_CLEAR,
    'type: loki, endpoint: "http://loki.example.com", username: a, password: secret': IN_THE_CLEAR,
    'type: elasticsearch, endpoint: "http://a.example.com", api_key: "id:secret"': IN_THE_CLEAR,
    'type: http, endpoint: "http://hooks.example.com", headers: {X-Key: secret}': IN_THE_CLEAR,
    f"{HOOK}, username: robot": ': "username" needs "password", too',
    f"{HOOK}, bearer_token: secret, bearer_token_file: /t": (
        'bearer_token_file: "bearer_token" and "bearer_token_file" exclude each other'
    ),
    f"{HOOK}, bearer_token: secret, headers: {{authorization: secret}}": (
        ": bearer_token and headers.Authorization exclude each other"
    ),
    f"{SEARCH}, api_key: 'no key', bearer_token: secret": (
        ": api_key and bearer_token exclude each other"
    ),
    f"{SEARCH}, api_key: 'no secret key'": (
        "api_key: expected the key as it was shown, in base64, or as id:key"
    ),
    f"{HOOK}, headers: {{Content-Length: 5}}": (
        "headers.Content-Length: this header is set by the sink itself"
    ),
    f"{HOOK}, headers: {{X Key: secret}}": (
        'headers."X Key": not the name of a header, got a hidden value'
    ),
    f"{HOOK}, tls: {{key_file: /k}}": 'tls.key_file: needs "cert_file", too, got "/k"',
}

NAMES = {
    f'{LOKI}, labels: {{sandbox: "{{sandbox_id}}"}}': (
        "labels.sandbox: {sandbox_id} would make every sandbox a stream of its own, which slows"
        " Loki down and soon meets its limits; leave it out, since it is structured metadata of"
        ' every line (query: {job="sandbox-forwarder"} | sandbox_id="..."), or set'
        ' "allow_high_cardinality: true", got "{sandbox_id}"'
    ),
    f"{LOKI}, tenant: a/b": (
        'tenant: a tenant has 1 to 150 letters, digits and ! - _ . * \' ( ), got "a/b"'
    ),
    f'{SEARCH}, index: "logs-{{sandbox_id}}"': (
        "index: {sandbox_id} would make an index for every sandbox, and each has its price; the"
        ' documents have it as a field, or set "allow_high_cardinality: true", got'
        ' "logs-{sandbox_id}"'
    ),
    f"{SEARCH}, index: a, data_stream: b": 'index: "data_stream" and "index" exclude each other',
    f'{SEARCH}, data_stream: "logs-{{date}}"': (
        "data_stream: a data stream has no {date} or {hour}: the server begins new indices behind"
        ' it, got "logs-{date}"'
    ),
}

KEYS_AND_VALUES = {
    'type: otlp, endpiont: "https://a"': 'endpiont: unknown key; did you mean "endpoint"?',
    f"{LOKI}, label: {{job: a}}": 'label: unknown key; did you mean "labels"?',
    f"{HOOK}, batch: {{max_record: 5}}": (
        'batch.max_record: unknown key; did you mean "max_records"?'
    ),
    f"{OTLP}, protocol: grcp": (
        'protocol: expected "http/protobuf", "http/json" or "grpc", got "grcp"; did you mean'
        ' "grpc"?'
    ),
    "type: otlp, protocol: grpc, compression: zstd": (
        'compression: gRPC knows "gzip" and "none", got "zstd"'
    ),
    f"{OTLP}, grpc: {{max_message: 1MiB}}": 'grpc: needs "protocol: grpc"',
    f"{LOKI}, compression: zstd": 'compression: expected "gzip" or "none", got "zstd"',
    f"{HOOK}, method: GET": 'method: expected "POST" or "PUT", got "GET"',
    f"{HOOK}, timeout: 30": (
        'timeout: expected a duration with a unit, such as "250ms", "5s", "5m" or "7d", got 30'
    ),
    f"{HOOK}, retry_statuses: [200]": "retry_statuses[0]: must be at least 400, got 200",
    f"{HOOK}, give_up_after: 5s": 'give_up_after: must be between 1m and 365d, got "5s"',
    f"{HOOK}, workers: 100": "workers: must be at most 64, got 100",
}


@pytest.mark.parametrize(
    ("section", "message"), (ENDPOINTS | CREDENTIALS | NAMES | KEYS_AND_VALUES).items()
)
def test_a_broken_section_is_refused_with_exactly_this_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sinks = f"state_dir: /s\nsandboxes: [{{id: a}}]\nsinks:\n  out: {{{section}}}\n"
    Path("config.yaml").write_text(sinks)
    with pytest.raises(InvalidConfigError) as caught:
        load_settings(Path("config.yaml"), sink_types=SINK_TYPES, env=ENV)
    where = "config.yaml:4: sinks.out" + ("" if message.startswith(":") else ".")
    assert str(caught.value) == where + message
    assert "secret" not in str(caught.value)
