"""What can be set of the Loki sink, and what of it is refused."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator, model_validator

from sinks.loki.encoding import Format, LokiOptions, LongLines, OldLines
from sinks.loki.labels import HIGH_CARDINALITY, MAX_LABELS, LabelError, parse_labels
from sinks.network import BatchSettings, NetworkSettings
from sinks.plan import DeliveryPlan
from sinks.server import Url
from sinks.service import ServiceSettings
from sinks.settings import ByteSize, Duration, Within, problem

_PUSH_PATH = "/loki/api/v1/push"
TENANT_HEADER = "X-Scope-OrgID"
#: What Loki takes as a tenant's name.
_TENANT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9!\-_.*'()]{1,150}")
#: A batch may take several requests, each of which has the settings' time-out.
_TIMEOUTS_PER_BATCH = 10


class LokiBatchSettings(BatchSettings):
    """How large a batch becomes, and how long a record waits for others."""

    max_records: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    """The most records in one batch."""
    max_bytes: Annotated[ByteSize, Within("1KiB", "16MiB")] = 1024 * 1024
    """About the most bytes of log in one batch, before compression; metadata comes on top."""


class LokiSettings(NetworkSettings):
    """Loki, Grafana Cloud Logs, or another server that takes Loki's push requests."""

    type: Literal["loki"] = "loki"
    """The kind of sink."""
    endpoint: Url
    """The server's address; `/loki/api/v1/push` is put behind it, unless its path ends in `/push`
    already."""
    tenant: str | None = None
    """The tenant, sent as `X-Scope-OrgID`, for a Loki that has several."""
    format: Format = "protobuf"
    """`protobuf`, which goes compressed with snappy and needs the extra `loki`, or `json`."""
    compression: Literal["gzip", "none"] = "gzip"
    """For `json`: `gzip` or `none`."""
    labels: Mapping[str, str] = Field(
        default_factory=lambda: {"job": "sandbox-forwarder", "service_name": "{service}"}
    )
    """The labels, by name; these replace the default ones. Names in braces: `{service}`
    `{container}` `{image}` `{tag:PREFIX}` `{annotation:NAME}` `{attribute:NAME}`."""
    allow_high_cardinality: bool = False
    """Allow `{sandbox_id}` and `{display_name}` in labels, each sandbox being a stream of its
    own."""
    service: ServiceSettings = ServiceSettings()
    """Where `{service}` comes from."""
    structured_metadata: bool = True
    """Send sandbox, line number and record id as structured metadata, which Loki has since 3.0.
    Without it each line is a JSON object that holds them, and its text."""
    reject_old_after: Annotated[Duration, Within("1m", "3650d")] = 7 * 86_400.0
    """Lines older than this are not taken by the server (`reject_old_samples_max_age`)."""
    old_lines: OldLines = "dead_letter"
    """What becomes of them: `dead_letter`, `restamp` (they get the time of sending, and keep their
    own as metadata) or `send` all the same."""
    max_line_bytes: Annotated[ByteSize, Within("4KiB", "64MiB")] = 256 * 1024
    """Lines longer than this are not taken by the server (`max_line_size`)."""
    long_lines: LongLines = "split"
    """What becomes of them: `split` into several entries, `dead_letter`, or `send` all the same."""
    in_flight: Annotated[int, Field(ge=1, le=64)] = 4
    """So many requests of a batch are under way at once, each of another Loki stream. Batches go
    one after the other: Loki refuses what is an hour older than the newest line of its stream."""
    batch: LokiBatchSettings = LokiBatchSettings()
    """How much is sent at once."""

    @field_validator("tenant")
    @classmethod
    def _check_tenant(cls, value: str | None) -> str | None:
        if value is not None and not _TENANT.fullmatch(value):
            raise problem("a tenant has 1 to 150 letters, digits and ! - _ . * ' ( )")
        return value

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, template in value.items():
            try:
                parse_labels({name: template})
            except LabelError as error:
                raise problem(str(error), at=[name]) from None
        if len(value) > MAX_LABELS:
            raise problem(f"Loki takes at most {MAX_LABELS} labels")
        return value

    @model_validator(mode="after")
    def _never_without_labels(self) -> Self:
        if not any(label.never_empty for label in parse_labels(self.labels)):
            text = "needs a label that is never empty, such as `job: sandbox-forwarder`"
            raise problem(text, at=["labels"], about=["labels"])
        return self

    @model_validator(mode="after")
    def _few_streams(self) -> Self:
        for label in parse_labels(self.labels):
            high = sorted(label.fields & HIGH_CARDINALITY)
            if high and not self.allow_high_cardinality:
                raise problem(
                    f"{{{high[0]}}} would make every sandbox a stream of its own, which slows Loki"
                    " down and soon meets its limits; leave it out, since it is structured metadata"
                    f' of every line (query: {{job="sandbox-forwarder"}} | {high[0]}="..."), or set'
                    ' "allow_high_cardinality: true"',
                    at=["labels", label.name],
                    about=["labels", "allow_high_cardinality"],
                )
        return self

    @model_validator(mode="after")
    def _one_tenant(self) -> Self:
        names = {name.lower() for name in self.headers}
        if self.tenant is not None and TENANT_HEADER.lower() in names:
            text = f'"tenant" and the header {TENANT_HEADER} exclude each other'
            raise problem(text, at=["tenant"], about=["headers"])
        return self

    @model_validator(mode="after")
    def _needs_snappy(self) -> Self:
        if self.format == "protobuf" and importlib.util.find_spec("cramjam") is None:
            text = 'needs the extra "loki": pip install "sandbox-forwarder[loki]"; or use json'
            raise problem(text, at=["format"], about=["format"])
        return self

    @property
    def push_url(self) -> str:
        """Where requests go."""
        url = urlsplit(self.endpoint)
        path = url.path.rstrip("/")
        return urlunsplit(url._replace(path=path if path.endswith("/push") else path + _PUSH_PATH))

    @property
    def endpoints(self) -> Mapping[str, str]:
        """The one address."""
        return {"endpoint": self.endpoint}

    @property
    def plan(self) -> DeliveryPlan:
        """A batch may take several requests, and the next one waits for it."""
        return replace(super().plan, timeout_s=_TIMEOUTS_PER_BATCH * self.timeout, in_flight=1)

    @property
    def last_request_s(self) -> float:
        """How long after its beginning a batch may begin one more request and be answered."""
        return (_TIMEOUTS_PER_BATCH - 2) * self.timeout

    @property
    def options(self) -> LokiOptions:
        """What the encoder has to know."""
        return LokiOptions(
            labels=parse_labels(self.labels),
            service=self.service,
            format=self.format,
            compression=self.compression,
            structured_metadata=self.structured_metadata,
            max_line_bytes=self.max_line_bytes,
            long_lines=self.long_lines,
            old_lines=self.old_lines,
            reject_old_after_s=self.reject_old_after,
        )
