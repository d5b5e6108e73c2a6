"""What the settings of every sink have in common that speaks to a server over HTTP."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from sinks.addresses import is_link_local, is_plaintext_remote, split_url
from sinks.settings import (
    Duration,
    LocalPath,
    SecretSource,
    Section,
    SinkSettings,
    Within,
    problem,
)


def check_url(value: str) -> str:
    """Refuse what is no http(s) URL; a slash at its end stays, since it may mean something."""
    url = split_url(value)
    if url is None:
        # Nothing of it is shown: the path of a webhook may be its secret.
        raise problem('expected a URL such as "https://logs.example.com:4318"', seen=False)
    if url.username is not None or url.password is not None:
        text = "a URL must not hold credentials; use headers, bearer_token or username"
        raise problem(text, seen=False)
    if "#" in value:
        raise problem('an address has no "#"', seen=False)
    if is_link_local(url.hostname or ""):
        text = "link-local addresses, such as those of metadata services, are refused"
        raise problem(text, seen=False)
    return value


#: The address of a server.
Url = Annotated[str, AfterValidator(check_url)]


class TlsSettings(Section):
    """Certificates: those to trust, and our own."""

    ca_file: LocalPath | None = None
    """Certificates of the authorities to trust, PEM, instead of the system's."""
    cert_file: LocalPath | None = None
    """Our own certificate, PEM, for servers that ask for one."""
    key_file: LocalPath | None = None
    """Its key, PEM, when that is not in cert_file."""
    insecure_skip_verify: bool = False
    """Believe any certificate. Everybody between here and there can then read and change the lines;
    a warning says so at every start."""

    @model_validator(mode="after")
    def _key_needs_certificate(self) -> Self:
        if self.key_file is not None and self.cert_file is None:
            raise problem('needs "cert_file", too', at=["key_file"], about=["cert_file"])
        return self


Workers = Annotated[int, Field(ge=0, le=64)]
InFlight = Annotated[int, Field(ge=1, le=64)]


class ServerSettings(SinkSettings):
    """A server, reached over HTTP, however it knows who we are."""

    allow_plaintext: bool = False
    """Allow credentials over http:// to another machine, where everybody in between sees them."""
    tls: TlsSettings = TlsSettings()
    """How the server is verified, and who we are to it."""
    connect_timeout: Annotated[Duration, Within("10ms", "10m")] = 10.0
    """How long to wait for a connection."""
    timeout: Annotated[Duration, Within("10ms", "1h")] = 30.0
    """How long one request may take, from its beginning to the end of the answer."""
    in_flight: InFlight = 4
    """So many requests are under way at once."""
    workers: Workers = 0
    """So many processes encode and compress; 0 does it in the daemon itself."""

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Every URL that the sink may send to, by its key; a subclass with one names it."""
        return {}

    @property
    def has_credentials(self) -> bool:
        """Whether requests carry anything that must stay secret."""
        return False

    @property
    def idle_timeout_s(self) -> float:
        """After so long without a byte in either direction a request is given up."""
        return self.timeout

    @property
    def warnings(self) -> Sequence[str]:
        """That a server is believed whatever its certificate, and that secrets can be read."""
        said = []
        if self.tls.insecure_skip_verify:
            said.append(
                "tls.insecure_skip_verify: anybody in between can read and change the lines"
            )
        if self.has_credentials and any(map(is_plaintext_remote, self.endpoints.values())):
            said.append("allow_plaintext: anybody in between can read the credentials")
        return said

    #: The keys that hold credentials: an error about them stands before one about plain text.
    credential_keys: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _no_secrets_in_the_clear(self) -> Self:
        for key, url in self.endpoints.items():
            if self.has_credentials and is_plaintext_remote(url) and not self.allow_plaintext:
                raise problem(
                    "http:// would send the credentials in the clear; use https://, "
                    'or set "allow_plaintext: true"',
                    at=[key],
                    about=[key, "allow_plaintext", *self.credential_keys],
                    seen=False,
                )
        return self

    def secret(self, key: str) -> SecretSource | None:
        """A secret setting that may stand in a file, `_file`; None when neither is given."""
        value, file = getattr(self, key), getattr(self, f"{key}_file")
        if value is None and file is None:
            return None
        return SecretSource(key if file is None else f"{key}_file", value, file)
