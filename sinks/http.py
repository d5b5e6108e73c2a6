"""The http sink: lines as JSON to any endpoint that takes a POST or PUT.

Delivered means that the endpoint answered with a 2xx status. The batch is the same at every resend,
also after a crash, and so is its idempotency key: an endpoint that looks at it stores each once.
"""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from sinks.answers import Answer, StatusTable, origin, verdict
from sinks.compress import encoding_headers
from sinks.credentials import read_secret
from sinks.http_body import Body, BodyFormat, BodyOptions, encode_body, sign
from sinks.interface import Batch, SinkMisconfiguredError, SinkState, StateChanges
from sinks.network import Compression, HeaderName, NetworkSettings
from sinks.plan import DeliveryPlan
from sinks.server import Url
from sinks.service import ServiceSettings
from sinks.settings import LocalPath, Secret, problem
from sinks.web import WebClient
from sinks.workers import Encoders

_TABLE = StatusTable(
    retry=frozenset({408, 425, 429, *range(500, 600)}), hold=frozenset({401, 403, 404, 410})
)
_CONTENT_TYPES: Mapping[BodyFormat, str] = {
    "ndjson": "application/x-ndjson",
    "json_array": "application/json",
}
_REFUSED = frozenset({401, 403, 407})

_MEDIA_TYPE = re.compile(r"[!-~]+/[!-~]+(?:; ?[!-~]+)*")


def _check_media_type(value: str) -> str:
    if not _MEDIA_TYPE.fullmatch(value):
        raise problem('expected a media type such as "application/json; charset=utf-8"')
    return value


class HttpSettings(NetworkSettings):
    """An HTTP endpoint that takes JSON."""

    type: Literal["http"] = "http"
    """The kind of sink."""
    endpoint: Url
    """Where lines are sent; exactly as written, with its path and query."""
    method: Literal["POST", "PUT"] = "POST"
    """How."""
    format: BodyFormat = "ndjson"
    """`ndjson`, one JSON object a line, or `json_array`, an array of such objects."""
    content_type: Annotated[str, AfterValidator(_check_media_type)] | None = None
    """Instead of `application/x-ndjson` and `application/json`."""
    compression: Compression = "none"
    """`gzip`, `zstd` or `none`; not every endpoint can read what is compressed."""
    service: ServiceSettings = ServiceSettings()
    """Where the field `service` comes from."""
    signing_secret: Secret | None = None
    """Sign requests with it: HMAC-SHA256 of timestamp, a dot, and the body as it is sent."""
    signing_secret_file: LocalPath | None = None
    """The same from a file; it is read at every use."""
    signature_header: HeaderName = "X-Signature"
    """The header with `sha256=` and the signature in hexadecimal."""
    timestamp_header: HeaderName = "X-Signature-Timestamp"
    """The header with the time of sending that is signed, too, in seconds since 1970."""
    idempotency_header: HeaderName = "Idempotency-Key"
    """The header with the batch's key, which is the same whenever the batch is sent."""
    check_method: Literal["OPTIONS", "HEAD", "GET"] = "OPTIONS"
    """What `sandbox-forwarder check` asks with; it sends no line."""

    @property
    def endpoints(self) -> Mapping[str, str]:
        """The one that there is."""
        return {"endpoint": self.endpoint}

    @property
    def plan(self) -> DeliveryPlan:
        """Batches are made durable before they are sent, so that their keys stay the same."""
        return replace(super().plan, fixed=True)

    @model_validator(mode="after")
    def _headers_are_different(self) -> Self:
        self.refuse_both("signing_secret", "signing_secret_file")
        if any(name.lower() == "content-type" for name in self.headers):
            raise problem('use "content_type" for this header', at=["headers"], seen=False)
        ours = [self.signature_header, self.timestamp_header, self.idempotency_header]
        names = [*ours, "content-type", "user-agent", "authorization", *self.headers]
        count = Counter(name.lower() for name in names)
        for key in ("signature_header", "timestamp_header", "idempotency_header"):
            if count[getattr(self, key).lower()] > 1:
                text = f'"{key}" is also the name of another header'
                raise problem(text, at=[key], about=["headers", key], seen=False)
        return self


class HttpSink:
    """Sends every batch in one request.

    Args:
        name: What the configuration calls it.
        settings: Its section of the configuration.
        now_s: The time that is signed.
    """

    def __init__(
        self, name: str, settings: HttpSettings, *, now_s: Callable[[], float] = time.time
    ) -> None:
        self._name = name
        self._settings = settings
        self._now_s = now_s
        self._options = BodyOptions(settings.format, settings.compression, settings.service)
        self._encoders = Encoders(settings.workers)
        self._web = WebClient(settings)

    async def open(self, state: SinkState) -> None:
        """Read certificates; the endpoint is asked nothing."""
        del state
        await self._web.open()

    async def write(self, batch: Batch) -> StateChanges:
        """Send the batch; what has no line and no gap is not sent."""
        body = await self._encoders.run(encode_body, tuple(batch.slices), self._options)
        if not body.is_empty:
            headers = await self._headers(body)
            url, method = self._settings.endpoint, self._settings.method
            answer = await self._web.request(method, url, body.content, headers)
            retry = self._settings.retry_statuses
            error = verdict(answer, _TABLE, url=url, retry_statuses=retry)
            if error is not None:
                raise error
        return {}

    async def close(self) -> None:
        """Close connections and end processes."""
        await self._web.close()
        await self._encoders.close()

    async def check(self) -> str:
        """Ask with a method that changes nothing.

        What such an answer says of the endpoint's readiness to take lines differs between servers:
        only a refusal of our credentials is held against it.
        """
        if (secret := self._settings.secret("signing_secret")) is not None:
            read_secret(secret)
        url = self._settings.endpoint
        await self._web.open()
        try:
            answer = await self._web.request(self._settings.check_method, url, None, {})
        finally:
            await self._web.close()
        return _found(answer, self._settings.check_method, url)

    async def _headers(self, body: Body) -> dict[str, str]:
        settings = self._settings
        headers = {
            "content-type": settings.content_type or _CONTENT_TYPES[settings.format],
            settings.idempotency_header: body.key,
            **encoding_headers(settings.compression),
        }
        secret = settings.secret("signing_secret")
        if secret is not None:
            stamp_s = int(self._now_s())
            # A large body takes milliseconds, which the event loop has not got.
            signature = await asyncio.to_thread(sign, body.content, read_secret(secret), stamp_s)
            headers[settings.signature_header] = signature
            headers[settings.timestamp_header] = str(stamp_s)
        return headers


def _found(answer: Answer, method: str, url: str) -> str:
    said = f"{origin(url)} answers {answer.status} to {method}"
    if answer.status in _REFUSED:
        text = f"{said}: it refuses our credentials"
        raise SinkMisconfiguredError(text, credentials=True)
    if answer.is_web_page:
        said += " with a web page"
    return f"{said}; whether it takes lines shows only when some are sent"
