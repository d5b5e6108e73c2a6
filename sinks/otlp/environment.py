"""The variables of the OpenTelemetry specification, and the keys that they stand for. Pure.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/: each exists for all signals and for
logs alone, and the one for logs stands before the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from sinks.settings import Variable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_ALL = "OTEL_EXPORTER_OTLP_"
_LOGS = "OTEL_EXPORTER_OTLP_LOGS_"

#: Keys whose text is the variable's, by the end of its name.
_PLAIN = {
    "PROTOCOL": "protocol",
    "COMPRESSION": "compression",
    "CERTIFICATE": "tls.ca_file",
    "CLIENT_CERTIFICATE": "tls.cert_file",
    "CLIENT_KEY": "tls.key_file",
}
_LOGINS = ("bearer_token", "bearer_token_file", "username")


def keys_from_environment(
    given: Collection[str], env: Mapping[str, str]
) -> dict[str, str | Variable]:
    """See `SinkSettings.from_environment`."""
    found: dict[str, str | Variable] = {
        key: name for end, key in _PLAIN.items() if (name := _variable(end, env)) is not None
    }
    if (name := _variable("TIMEOUT", env)) is not None:
        found["timeout"] = Variable(name, f"{env[name].strip()}ms")
    if (name := _variable("HEADERS", env)) is not None:
        found["headers"] = _headers(name, env[name], logged_in=any(k in given for k in _LOGINS))
    if "endpoint" not in given and "logs_endpoint" not in given:
        found.update(_endpoint(env))
    return {key: variable for key, variable in found.items() if key not in given}


def _variable(end: str, env: Mapping[str, str]) -> str | None:
    """The name of the variable that counts; an empty one does not."""
    return next((name for name in (_LOGS + end, _ALL + end) if env.get(name)), None)


def _endpoint(env: Mapping[str, str]) -> dict[str, str | Variable]:
    """For logs the exact address, for all signals the base of one."""
    name = _variable("ENDPOINT", env)
    if name is None:
        return {}
    key = "logs_endpoint" if name.startswith(_LOGS) else "endpoint"
    if "://" in env[name]:
        return {key: name}
    # What gRPC's own libraries call a target; whether it is plaintext stands in a third variable.
    insecure = _variable("INSECURE", env)
    plain = insecure is not None and env[insecure].strip().lower() == "true"
    return {key: Variable(name, f"{'http' if plain else 'https'}://{env[name]}")}


def _headers(name: str, text: str, *, logged_in: bool) -> str | Variable:
    """`key=value,key=value`, percent-encoded; as it is when it is nothing of the kind.

    Args:
        name: The variable's.
        text: What it holds.
        logged_in: The file itself says how to log in; then nothing here does.
    """
    headers = {}
    for pair in filter(str.strip, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            return name
        headers[unquote(key.strip())] = unquote(value.strip())
    if logged_in:
        headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
    return Variable(name, headers)
