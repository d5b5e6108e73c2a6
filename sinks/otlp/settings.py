"""The settings of the OTLP sink."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

import importlib.util
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from sinks.network import NetworkSettings
from sinks.otlp.encoding import Encoding
from sinks.otlp.environment import keys_from_environment
from sinks.plan import DeliveryPlan
from sinks.server import Url
from sinks.service import ServiceSettings
from sinks.settings import ByteSize, Section, Variable, Within, problem

#: The specification's limit for a body, before and after compression.
MAX_BODY_BYTES = 64 * 1024 * 1024

_LOGS_PATH = "/v1/logs"
_DEFAULT_HTTP = "http://localhost:4318"
_DEFAULT_GRPC = "http://localhost:4317"
#: gRPC lets through fewer characters than HTTP, and keeps names of its own.
_METADATA_NAME = re.compile(r"(?!grpc-)[a-z0-9_.-]+(?<!-bin)", re.IGNORECASE)

#: Statuses that are neither retried nor held by themselves.
RetryCode = Literal[
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "INTERNAL",
]


class GrpcSettings(Section):
    """What only gRPC knows."""

    max_message: Annotated[ByteSize, Within("64KiB", "64MiB")] = 4 * 1024 * 1024
    """The largest message that the server takes, before compression; most stop at 4 MiB."""
    retry_codes: tuple[RetryCode, ...] = ()
    """Statuses to try again after, besides those of the protocol: `[INTERNAL]`."""


class OtlpSettings(NetworkSettings):
    """An OpenTelemetry collector, or another server that takes OTLP."""

    type: Literal["otlp"] = "otlp"
    """The kind of sink."""
    protocol: Literal["http/protobuf", "http/json", "grpc"] = "http/protobuf"
    """How to speak to the server; grpc needs the extra of that name."""
    endpoint: Url | None = None
    """The server's address, to which HTTP adds `/v1/logs`; when there is none here and none in
    $OTEL_EXPORTER_OTLP_ENDPOINT, http://localhost:4318, or 4317 for grpc."""
    logs_endpoint: Url | None = None
    """The whole address for logs, used exactly as written, instead of endpoint."""
    service: ServiceSettings = ServiceSettings()
    """Where the attribute `service.name` comes from."""
    severity: Literal["off", "detect"] = "off"
    """detect: look for a severity where lines begin: `WARN ...`, `level=warn`, and the like."""
    grpc: GrpcSettings = GrpcSettings()
    """Only with `protocol: grpc`: what that has and HTTP has not."""

    @classmethod
    def from_environment(
        cls, given: Collection[str], env: Mapping[str, str]
    ) -> dict[str, str | Variable]:
        """$OTEL_EXPORTER_OTLP_* and $OTEL_EXPORTER_OTLP_LOGS_*, by the specification's rules."""
        return keys_from_environment(given, env)

    @property
    def url(self) -> str:
        """Where requests go; for gRPC the server alone counts."""
        if self.logs_endpoint is not None:
            return self.logs_endpoint
        if self.protocol == "grpc":
            return self.endpoint or _DEFAULT_GRPC
        return (self.endpoint or _DEFAULT_HTTP).rstrip("/") + _LOGS_PATH

    @property
    def endpoints(self) -> Mapping[str, str]:
        """The one address, under the key that it was given by."""
        return {"endpoint" if self.logs_endpoint is None else "logs_endpoint": self.url}

    @property
    def encoding(self) -> Encoding:
        """How bodies are made."""
        over_grpc = self.protocol == "grpc"
        return Encoding(
            form="json" if self.protocol == "http/json" else "protobuf",
            compression="none" if over_grpc else self.compression,
            max_bytes=self.grpc.max_message if over_grpc else MAX_BODY_BYTES,
            service=self.service,
            detect_severity=self.severity == "detect",
        )

    @property
    def plan(self) -> DeliveryPlan:
        """How the engine delivers to it.

        Messages of gRPC have little room, and lines become longer when they are encoded.
        """
        plan = super().plan
        if self.protocol != "grpc":
            return plan
        return replace(plan, max_bytes=min(self.batch.max_bytes, self.grpc.max_message // 2))

    @field_validator("headers", mode="before")
    @classmethod
    def _not_only_text(cls, value: object) -> object:
        if isinstance(value, str):
            text = "expected headers by name; $OTEL_EXPORTER_OTLP_[LOGS_]HEADERS has name=value,..."
            raise problem(text, seen=False)
        return value

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        self.refuse_both("endpoint", "logs_endpoint")
        if self.endpoint is not None and urlsplit(self.endpoint).query:
            text = 'a base address has no "?"; give the whole address as "logs_endpoint"'
            raise problem(text, at=["endpoint"], about=["endpoint"])
        return self

    @model_validator(mode="after")
    def _fits_the_protocol(self) -> Self:
        if self.protocol == "grpc":
            self._check_grpc()
        elif self.grpc != GrpcSettings():
            raise problem('needs "protocol: grpc"', at=["grpc"], about=["protocol"], seen=False)
        return self

    def _check_grpc(self) -> None:
        if importlib.util.find_spec("grpc") is None:
            text = 'needs the extra "grpc": pip install "sandbox-forwarder[grpc]"'
            raise problem(text, at=["protocol"])
        for key, url in self.endpoints.items():
            if urlsplit(url).path not in {"", "/"} or urlsplit(url).query:
                raise problem("an address for gRPC has no path", at=[key], about=[key, "protocol"])
        about = ["protocol", "compression", "tls", "retry_statuses", "headers"]
        if self.compression == "zstd":
            raise problem('gRPC knows "gzip" and "none"', at=["compression"], about=about)
        if self.tls.insecure_skip_verify:
            text = "gRPC always verifies the server; set tls.ca_file"
            raise problem(text, at=["tls", "insecure_skip_verify"], about=about)
        if self.retry_statuses:
            text = 'these are statuses of HTTP; use "grpc: {retry_codes: [...]}"'
            raise problem(text, at=["retry_statuses"], about=about, seen=False)
        for name in self.headers:
            if not _METADATA_NAME.fullmatch(name):
                text = "not the name of a header in gRPC, or one of its own"
                raise problem(text, at=["headers", name], about=about, seen=False)
