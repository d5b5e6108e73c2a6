"""What the settings of every sink have in common that sends batches to a server."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sinks.plan import FOR_EVER_S, DeliveryPlan
from sinks.server import InFlight, ServerSettings
from sinks.settings import ByteSize, Duration, LocalPath, Secret, Section, Within, problem

Compression = Literal["gzip", "zstd", "none"]

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: Headers that frame the request: they are the sink's own, whatever else is asked for.
_RESERVED = frozenset(
    {
        *("host", "connection", "upgrade", "expect"),
        *("content-length", "content-encoding", "transfer-encoding", "te", "trailer"),
        "accept-encoding",
    }
)


class HeaderFile(Section):
    """A header whose value stands in a file, which is read at every use."""

    file: LocalPath
    """The file."""


def _check_header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise problem("not the name of a header")
    if value.lower() in _RESERVED:
        raise problem("this header is set by the sink itself", seen=False)
    return value


#: The name of a header that the sink does not set anyhow.
HeaderName = Annotated[str, AfterValidator(_check_header_name)]


def _check_headers(value: object) -> object:
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                raise problem("not the name of a header", at=[str(name)])
            if name.lower() in _RESERVED:
                raise problem("this header is set by the sink itself", at=[name], seen=False)
        if len({name.lower() for name in value}) < len(value):
            raise problem("two headers differ only in upper and lower case", seen=False)
    return value


def _check_username(value: str) -> str:
    # RFC 7617: what follows a colon would be taken for the password.
    if ":" in value or not value.isprintable():
        raise problem('expected printable text without ":"')
    return value


#: Headers by name; a value is a secret, and may stand in a file.
Headers = Annotated[Mapping[str, Secret | HeaderFile], BeforeValidator(_check_headers)]


class BatchSettings(Section):
    """What one request may hold, and how long it waits to be full."""

    max_records: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """The most records in one request."""
    max_bytes: Annotated[ByteSize, Within("1KiB", "64MiB")] = 4 * 1024 * 1024
    """About the most bytes of log in one request, before compression."""
    max_age: Annotated[Duration, Within("0s", "1h")] = 1.0
    """How long a record waits for others to be sent with."""


RetryStatus = Annotated[int, Field(ge=400, le=599)]


class NetworkSettings(ServerSettings):
    """A server that is sent batches, and knows us by what stands in a header."""

    credential_keys: ClassVar[tuple[str, ...]] = ("headers", "bearer_token", "username")

    headers: Headers = Field(default_factory=dict)
    """Headers to send with every request, by name: a value, or `{file: PATH}`."""
    bearer_token: Secret | None = None
    """Sent as `Authorization: Bearer ...`."""
    bearer_token_file: LocalPath | None = None
    """The same from a file; it is read at every use, so that the token can be rotated."""
    username: Annotated[str, Field(min_length=1), AfterValidator(_check_username)] | None = None
    """For `Authorization: Basic ...`, with a password."""
    password: Secret | None = None
    """The password."""
    password_file: LocalPath | None = None
    """The same from a file; it is read at every use."""
    compression: Compression = "gzip"
    """`gzip`, `zstd` (only where the server is known to take it) or `none`."""
    in_flight: InFlight = 4
    """So many requests are under way at once; lines may then arrive out of order."""
    batch: BatchSettings = BatchSettings()
    """How large a request becomes, and how long it waits for that."""
    retry_statuses: tuple[RetryStatus, ...] = ()
    """HTTP statuses to try again after, besides those of the protocol: `[500]`."""
    give_up_after: Annotated[Duration, Within("1m", "365d")] | None = None
    """After so long of failing, a batch is set aside as dead letters; never by default."""

    @property
    def plan(self) -> DeliveryPlan:
        """How the engine delivers to it."""
        return DeliveryPlan(
            max_records=self.batch.max_records,
            max_bytes=self.batch.max_bytes,
            max_age_s=self.batch.max_age,
            in_flight=self.in_flight,
            timeout_s=self.timeout,
            give_up_after_s=FOR_EVER_S if self.give_up_after is None else self.give_up_after,
            dead_letter_bytes=self.dead_letters.max_size,
        )

    @property
    def has_credentials(self) -> bool:
        """Whether requests carry anything that must stay secret; a header may always be one."""
        return bool(self.headers or self.username or self.secret("bearer_token"))

    @model_validator(mode="after")
    def _one_way_to_log_in(self) -> Self:
        self.refuse_both("bearer_token", "bearer_token_file")
        self.refuse_both("password", "password_file")
        bearer, password = self.secret("bearer_token"), self.secret("password")
        if (self.username is None) != (password is None):
            key = "username" if password is None else "password"
            other = "password" if password is None else "username"
            raise problem(f'"{key}" needs "{other}", too', about=["username", "password"])
        ways = [
            name
            for name, given in {
                "bearer_token": bearer,
                "username": self.username,
                "headers.Authorization": any(k.lower() == "authorization" for k in self.headers),
            }.items()
            if given
        ]
        if len(ways) > 1:
            raise problem(f"{ways[0]} and {ways[1]} exclude each other", seen=False)
        return self
