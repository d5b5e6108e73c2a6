"""Every setting of the engine, with its default. Sinks bring their own: see `sinks.settings`.

The objects are frozen and know neither the file they came from nor the environment; the loader
fills in what the environment may supply. Durations are seconds and sizes bytes.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    WithJsonSchema,
    model_validator,
)

from forwarder.config.addresses import (
    check_base_url,
    check_header_secret,
    check_header_text,
    check_listen,
    split_listen,
)
from forwarder.errors import CredentialsRefusedError
from sinks.addresses import is_header_text, is_loopback, is_plaintext_remote
from sinks.settings import (
    ByteSize,
    Duration,
    LocalPath,
    Secret,
    SecretSource,
    SecretUnavailableError,
    Section,
    SinkSettings,
    Within,
    format_duration,
    problem,
)

DEFAULT_BASE_URL: Final = "https://api.cwsandbox.com"
SINK_NAME_PATTERN: Final = "^[a-z0-9][a-z0-9_-]{0,62}$"
CREDENTIAL_KEYS: Final = ("api_key", "api_key_file", "wandb_api_key", "wandb_api_key_file")


HeaderText = Annotated[str, AfterValidator(check_header_text)]
HeaderSecret = Annotated[Secret, AfterValidator(check_header_secret)]


class SourceSettings(Section):
    """The sandbox API: where it is, who we are, and how patient we are."""

    base_url: Annotated[str, AfterValidator(check_base_url)] = DEFAULT_BASE_URL
    """Address of the API; when left out, $CWSANDBOX_BASE_URL is used if it is set."""
    allow_plaintext: bool = False
    """Allow http:// to another machine, although it shows the key to everybody in between."""
    protocol: Literal["connect", "grpc"] = "connect"
    """How to speak to the API; grpc needs the extra of that name."""
    api_key: HeaderSecret | None = None
    """The API key; without any credentials here, $CWSANDBOX_API_KEY is used."""
    api_key_file: LocalPath | None = None
    """A file that holds the API key; it is read at every use, so the key can be rotated."""
    wandb_api_key: HeaderSecret | None = None
    """A Weights & Biases API key, instead of api_key."""
    wandb_api_key_file: LocalPath | None = None
    """A file that holds the Weights & Biases API key; it is read at every use."""
    wandb_entity: HeaderText | None = None
    """The Weights & Biases entity to act for."""
    wandb_project: HeaderText | None = None
    """The Weights & Biases project to act for."""
    wandb_host: HeaderText | None = None
    """The Weights & Biases host, if it is self-managed."""
    overlap: Annotated[Duration, Within("0s", "1h")] = 15.0
    """How far before the checkpoint a re-read begins after a log session was lost."""
    max_line_bytes: Annotated[ByteSize, Within("1KiB", "64MiB")] = 1024 * 1024
    """A longer line is taken in numbered parts of this size."""
    poll_interval: Annotated[Duration, Within("100ms", "1h")] = 5.0
    """How often to look for new and ended sandboxes."""
    connect_timeout: Annotated[Duration, Within("10ms", "10m")] = 10.0
    """How long to wait for a connection."""
    request_timeout: Annotated[Duration, Within("10ms", "1h")] = 30.0
    """How long to wait for an answer; a log stream may stay silent for as long as it likes."""
    backoff_initial: Annotated[Duration, Within("1ms", "1h")] = 0.5
    """The first pause before trying again; it doubles, with jitter, up to backoff_max."""
    backoff_max: Annotated[Duration, Within("1ms", "1h")] = 30.0
    """The longest pause before trying again."""
    idle_probe: Annotated[Duration, Within("1s", "1d")] = 60.0
    """A stream that was silent for so long is opened again: silence is never mistaken for peace."""
    stream_life: Annotated[Duration, Within("10s", "7d")] = 3600.0
    """No stream stays open for longer, with jitter; it is opened again where it was."""
    max_opening: Annotated[int, Field(ge=1, le=10_000)] = 50
    """So many streams are opened at the same time: a thousand cut at once come back spread out."""
    stored_logs: Literal["auto", "off"] = "auto"
    """auto: read a sandbox's stored logs when its end can no longer be streamed; off: never."""
    hold_interval: Annotated[Duration, Within("1s", "1d")] = 60.0
    """How often to look again after the API refused our credentials."""

    @model_validator(mode="after")
    def _plaintext(self) -> Self:
        if is_plaintext_remote(self.base_url) and not self.allow_plaintext:
            raise problem(
                "http:// would send the key in the clear; use https://, "
                'or set "allow_plaintext: true"',
                at=("base_url",),
                about=("base_url", "allow_plaintext"),
            )
        return self

    @model_validator(mode="after")
    def _backoff(self) -> Self:
        if self.backoff_initial > self.backoff_max:
            keys = ("backoff_initial", "backoff_max")
            initial, largest = (format_duration(getattr(self, key)) for key in keys)
            raise problem(
                f"backoff_initial ({initial}) is longer than backoff_max ({largest})",
                at=[key for key in keys if key in self.model_fields_set][-1:],
                about=keys,
                seen=False,
            )
        return self

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        self.refuse_both(*CREDENTIAL_KEYS)
        if self._secret_source is None:
            raise problem(
                "no credentials: set api_key, api_key_file, wandb_api_key, wandb_api_key_file "
                "or the environment variable CWSANDBOX_API_KEY",
                about=CREDENTIAL_KEYS,
            )
        if self.wandb_api_key is None and self.wandb_api_key_file is None:
            for key in ("wandb_entity", "wandb_project", "wandb_host"):
                if getattr(self, key) is not None:
                    text = "needs wandb_api_key or wandb_api_key_file"
                    raise problem(text, at=(key,), about=CREDENTIAL_KEYS, seen=False)
        return self

    @property
    def _secret_source(self) -> SecretSource | None:
        """The credentials that are given; after validation there are always some."""
        for key in ("api_key", "wandb_api_key"):
            value, file = getattr(self, key), getattr(self, f"{key}_file")
            if value is not None or file is not None:
                name = f"source.{key}" if file is None else f"source.{key}_file"
                return SecretSource(name, value, file)
        return None

    def auth_headers(self) -> dict[str, str]:
        """The headers that say who we are, names in lower case; a key file is read now.

        Raises:
            CredentialsRefusedError: There is no usable key in the file now. The message names the
                setting and the file, never what is in it.
        """
        source = self._secret_source
        assert source is not None, "validated"
        try:
            key = source.read()
        except SecretUnavailableError as error:
            raise CredentialsRefusedError(str(error), code="unauthenticated") from None
        if not is_header_text(key):
            text = f"{source.key}: not a key: expected printable ASCII without spaces"
            raise CredentialsRefusedError(text, code="unauthenticated")
        if source.key.startswith("source.api_key"):
            return {"authorization": f"Bearer {key}"}
        optional = {
            "x-entity-id": self.wandb_entity,
            "x-project-name": self.wandb_project,
            "x-wandb-host": self.wandb_host,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {"x-wandb-api-key": key, **given}


def _check_containers(value: object) -> object:
    if isinstance(value, str) and value in {"all", "primary"}:
        return value
    names = value if isinstance(value, (list, tuple)) else ()
    if names and all(isinstance(name, str) and name for name in names):
        return tuple(names)
    raise problem('expected "all", "primary" or a list of container names')


#: Which containers of a sandbox are followed.
Containers = Annotated[
    Literal["all", "primary"] | tuple[str, ...],
    BeforeValidator(_check_containers),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["all", "primary"]},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            ]
        }
    ),
]
Name = Annotated[str, Field(min_length=1)]


class SandboxSelector(Section):
    """Which sandboxes to follow: one by its id, or all that have all of some tags."""

    id: Name | None = None
    """The id of one sandbox."""
    tags: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Sandboxes that have all of these tags, also those that appear later."""
    containers: Containers = "all"
    """all, primary, or a list of container names."""
    attributes: Mapping[str, str] = Field(default_factory=dict)
    """Attributes of your own; sinks that know attributes add them to every record."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        self.refuse_both("id", "tags")
        if self.id is None and self.tags is None:
            raise problem('needs "id" or "tags"', about=("id", "tags"))
        return self


def _check_distinct_ids(selectors: tuple[SandboxSelector, ...]) -> tuple[SandboxSelector, ...]:
    first: dict[str, int] = {}
    for index, selector in enumerate(selectors):
        if selector.id is None:
            continue
        earlier = first.setdefault(selector.id, index)
        if earlier != index:
            raise problem(f"the same id as sandboxes[{earlier}]", at=(index, "id"), seen=False)
    return selectors


class SpoolSettings(Section):
    """The spool in state_dir: how much is kept in memory, and how often it is made durable."""

    commit_interval: Annotated[Duration, Within("10ms", "1s")] = 0.05
    """How long lines may wait for the next commit, which all streams share."""
    buffer_bytes: Annotated[ByteSize, Within("1MiB", "16GiB")] = 16 * 1024 * 1024
    """Bytes read but not yet committed, over all streams; reading pauses when it is full."""
    batch_bytes: Annotated[ByteSize, Within("64KiB", "256MiB")] = 8 * 1024 * 1024
    """How much one batch for a sink holds, before compression."""
    max_size: Annotated[ByteSize, Within("16MiB", "16TiB")] | None = None
    """The most the spool may take on disk; without it, as much as there is."""
    when_full: Literal["block", "drop_oldest"] = "block"
    """What happens at max_size: block stops reading until there is room; drop_oldest gives up the
    oldest lines that some sink has not got yet, each range with a gap record."""
    keep: Annotated[Duration, Within("0s", "365d")] = 0.0
    """How long lines stay that every sink has, so that `replay` can send them again; the first to
    go when there is no room."""
    ballast: Annotated[ByteSize, Within("0B", "1GiB")] = 32 * 1024 * 1024
    """A file of this size is kept to be deleted when the disk is full: cleaning up needs room."""


class AdminSettings(Section):
    """The endpoint for health, metrics and status."""

    listen: Annotated[str, AfterValidator(check_listen)] = "127.0.0.1:9465"
    """host:port, with port 0 for any free one, or off."""
    allow_remote: bool = False
    """Allow other machines to connect; the endpoint asks nobody for a password."""

    @model_validator(mode="after")
    def _remote(self) -> Self:
        address = self.address
        if address is not None and not self.allow_remote and not is_loopback(address[0]):
            raise problem(
                'other machines could connect; listen on 127.0.0.1, or set "allow_remote: true"',
                at=("listen",),
                about=("listen", "allow_remote"),
            )
        return self

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on; None when the endpoint is off."""
        return split_listen(self.listen)


LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]


class LogSettings(Section):
    """The program's own log, on standard error."""

    level: LogLevel = "info"
    """debug, info, warning or error."""
    format: LogFormat = "auto"
    """console for people, json for machines, auto for console on a terminal and else json."""


class ShutdownSettings(Section):
    """How the program ends."""

    drain_timeout: Annotated[Duration, Within("0s", "1h")] = 25.0
    """How long sinks may go on delivering after a stop was asked for."""


class EngineSettings(Section):
    """Everything but the sinks, whose types the engine does not know."""

    state_dir: LocalPath
    """Directory of the spool, checkpoints and cursors; one daemon at a time."""
    source: SourceSettings
    """The sandbox API: where it is, who we are, and how patient we are."""
    sandboxes: Annotated[
        tuple[SandboxSelector, ...], Field(min_length=1), AfterValidator(_check_distinct_ids)
    ]
    """What to follow: sandboxes that match any of these."""
    spool: SpoolSettings = SpoolSettings()
    """The spool in state_dir: how much is kept in memory, and how often it is made durable."""
    admin: AdminSettings = AdminSettings()
    """The endpoint for health, metrics and status."""
    log: LogSettings = LogSettings()
    """The program's own log, on standard error."""
    shutdown: ShutdownSettings = ShutdownSettings()
    """How the program ends."""

    @model_validator(mode="after")
    def _line_fits_buffer(self) -> Self:
        if self.source.max_line_bytes > self.spool.buffer_bytes:
            raise problem(
                "must not be smaller than source.max_line_bytes",
                at=("spool", "buffer_bytes"),
                about=("source.max_line_bytes", "spool.buffer_bytes"),
            )
        return self


SinkName = Annotated[str, Field(pattern=SINK_NAME_PATTERN)]


class Settings(EngineSettings):
    """The whole configuration."""

    sinks: Annotated[Mapping[SinkName, SerializeAsAny[SinkSettings]], Field(min_length=1)]
    """Where lines go, each destination under a name of your own."""
