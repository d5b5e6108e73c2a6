"""The settings of the s3 sink."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

import re
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sinks.addresses import is_plaintext_remote
from sinks.plan import DeliveryPlan, WindowLimits
from sinks.s3.addressing import Addressing
from sinks.s3.formats.interface import Compression, FormatName
from sinks.s3.formats.registry import get_format
from sinks.s3.keys import KeyTemplate
from sinks.s3.plan import Recipe
from sinks.s3.providers import PRESETS, Provider
from sinks.server import ServerSettings, Url
from sinks.settings import (
    ByteSize,
    Duration,
    LocalPath,
    Secret,
    Section,
    SinkSettings,
    Variable,
    Within,
    problem,
)
from sinks.template import TemplateError

#: Names of general purpose buckets, and the older ones with capitals and underscores.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_DNS_BUCKET = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9_.:/=@+-]+")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=/-]+")

#: One window in flight is uploaded while the next one is built.
_WINDOWS_IN_FLIGHT = 2
_LEVELS: Mapping[str, int] = {"zstd": 3, "gzip": 6, "none": 0}
_MAX_LEVELS: Mapping[str, int] = {"zstd": 19, "gzip": 9, "none": 0}
_SECONDS_PER_HOUR = 3600.0
_MANY_OBJECTS_PER_HOUR = 60


def _check_bucket(name: str) -> str:
    if not _BUCKET.fullmatch(name) or ".." in name:
        raise problem('expected the name of a bucket, such as "my-logs", without "s3://" or "/"')
    return name


def _check_word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise problem("expected letters, digits and . _ : / = @ + -")
    return value


def _check_prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value) or value.startswith("/") or "//" in value or ".." in value:
        raise problem('expected the beginning of keys, such as "logs/_manifests/"')
    return value if value.endswith("/") else f"{value}/"


Word = Annotated[str, AfterValidator(_check_word)]


class WindowSettings(Section):
    """When what has come becomes objects; whichever comes first. A stopping daemon does it, too."""

    max_size: Annotated[ByteSize, Within("4KiB", "4GiB")] = 64 * 1024 * 1024
    """About so large are the objects of one window together, compressed."""
    max_age: Annotated[Duration, Within("100ms", "24h")] = 300.0
    """How long a line waits at most before it is on its way."""
    at_end: bool = False
    """Whether the end of a sandbox is a reason, too. Many short ones make many small objects."""


class EncryptionSettings(Section):
    """How the store encrypts objects; left out, as the bucket says."""

    algorithm: Literal["AES256", "aws:kms", "aws:kms:dsse"]
    """`AES256`: with the store's own keys. `aws:kms`, `aws:kms:dsse`: with a key of KMS."""
    kms_key_id: Word | None = None
    """The key; when left out, the account's own."""
    bucket_key: bool = False
    """Ask KMS less often, through a key of the bucket."""

    @model_validator(mode="after")
    def _key_is_of_kms(self) -> Self:
        if self.algorithm == "AES256" and (self.kms_key_id is not None or self.bucket_key):
            key = "bucket_key" if self.kms_key_id is None else "kms_key_id"
            raise problem('needs algorithm "aws:kms"', at=[key], about=["algorithm"], seen=False)
        return self


class S3Settings(ServerSettings):
    """A bucket of S3 or of a compatible store: every line once, in objects, for good."""

    type: Literal["s3"] = "s3"
    """The kind of sink."""
    provider: Provider | None = None
    """What kind of store it is: `aws`, `coreweave` (AI Object Storage), `r2` (Cloudflare), `minio`,
    `gcs` (Google Cloud Storage, with HMAC keys), `ceph` or `other`. Left out, `aws` without an
    endpoint and `other` with one."""
    bucket: Annotated[str, AfterValidator(_check_bucket)]
    """The bucket. It must be there; the sink creates none."""
    endpoint: Url | None = None
    """Where the store is, without the bucket; left out, where the provider has it."""
    account: Word | None = None
    """The account's id, which is part of the endpoint of `r2`."""
    region: Word | None = None
    """The bucket's region; left out, AWS_REGION or AWS_DEFAULT_REGION, or what the provider has."""
    addressing: Addressing | None = None
    """`virtual`: the bucket is part of the host's name. `path`: part of the path. Left out, what
    the provider wants."""
    key: str = "logs/dt={date}/hour={hour}/{first}-{last}"
    """The key of each object. `{sandbox_id}`, `{container}`, `{display_name}`, `{date}` and
    `{hour}` (UTC, from the line's stamp), `{first}` and `{last}` (the object's first and last
    stamp) and `{window}` (a name that no other window has; it is added when it is left out) are
    replaced. The extension follows from format and compression."""
    format: FormatName = "ndjson"
    """`ndjson`: one JSON object a line. `text`: each line exactly as the server sent it.
    `otlp_json`: OTLP as JSON lines. `parquet`: columns, for queries (extra `parquet`)."""
    compression: Compression = "zstd"
    """`zstd`, `gzip` or `none`."""
    level: Annotated[int, Field(ge=1, le=19)] | None = None
    """How hard to compress; left out, 3 for zstd and 6 for gzip."""
    window: WindowSettings = WindowSettings()
    """When what has come becomes objects."""
    manifest_prefix: Annotated[str, AfterValidator(_check_prefix)] | None = None
    """Where manifests go: small objects that say which objects are complete, and what is in them.
    Left out, `_manifests/` in the folder that all keys begin with; query engines skip names that
    begin with an underscore."""
    access_key_id: Word | None = None
    """The access key, with secret_access_key. When none of the keys about credentials is given,
    they are looked for where the AWS tools do: in the environment, in ~/.aws, web identity, and
    the services of containers and instances."""
    secret_access_key: Secret | None = None
    """Its secret."""
    secret_access_key_file: LocalPath | None = None
    """The same from a file; it is read at every use."""
    session_token: Secret | None = None
    """The token of temporary credentials."""
    session_token_file: LocalPath | None = None
    """The same from a file; it is read at every use."""
    profile: Word | None = None
    """A profile of the AWS configuration files; whatever it says, roles and web identity too."""
    credentials_file: LocalPath | None = None
    """A file with profiles, in place of ~/.aws/credentials; it is read again when the store refuses
    what is in it."""
    anonymous: bool = False
    """Sign nothing, for stores that know nobody."""
    storage_class: Word | None = None
    """The storage class of objects, such as `STANDARD_IA`; left out, the bucket's."""
    encryption: EncryptionSettings | None = None
    """How the store encrypts objects."""
    conditional_writes: Literal["auto", "on", "off"] = "auto"
    """Whether the store itself refuses to write a key twice (If-None-Match). `auto` tries it at
    every start, with a small object beside the manifests."""
    multipart_above: Annotated[ByteSize, Within("5MiB", "5GiB")] = 256 * 1024 * 1024
    """A larger object is uploaded in parts."""
    part_size: Annotated[ByteSize, Within("5MiB", "5GiB")] = 64 * 1024 * 1024
    """The size of these parts; all are equal but the last."""
    timeout: Annotated[Duration, Within("10ms", "1h")] = 300.0
    """How long one request may take, from its beginning to the end of the answer."""
    idle_timeout: Annotated[Duration, Within("10ms", "1h")] = 30.0
    """How long a request may stand still."""

    @classmethod
    def from_environment(
        cls, given: Collection[str], env: Mapping[str, str]
    ) -> "dict[str, str | Variable]":
        """The region, as the AWS tools take it."""
        names = ("AWS_REGION", "AWS_DEFAULT_REGION")
        name = next((name for name in names if env.get(name)), None)
        follows_aws = "provider" not in given and "endpoint" not in given
        return {"region": name} if name and "region" not in given and follows_aws else {}

    @property
    def store(self) -> Provider:
        """What kind of store it is."""
        return self.provider or ("aws" if self.endpoint is None else "other")

    @property
    def store_region(self) -> str:
        """The region that is signed."""
        return self.region or PRESETS[self.store].region

    @property
    def store_endpoint(self) -> str:
        """Where the store is, without the bucket."""
        if self.endpoint is not None:
            return self.endpoint
        preset = PRESETS[self.store].endpoint
        if self.store_region.startswith("cn-"):
            preset = f"{preset}.cn"
        return preset.format(region=self.store_region, account=self.account or "")

    @property
    def store_addressing(self) -> Addressing:
        """How the bucket is addressed."""
        if self.addressing is not None:
            return self.addressing
        preset = PRESETS[self.store]
        # A dot in the name is one label too many for the certificate of `*.s3.example.com`.
        dotted = "." in self.bucket or not _DNS_BUCKET.fullmatch(self.bucket)
        return "path" if dotted and preset.only is None else preset.addressing

    @property
    def object_headers(self) -> Mapping[str, str]:
        """What every object is written with besides its own headers."""
        headers = {}
        if self.storage_class is not None:
            headers["x-amz-storage-class"] = self.storage_class
        if self.encryption is not None:
            prefix = "x-amz-server-side-encryption"
            headers[prefix] = self.encryption.algorithm
            if self.encryption.kms_key_id is not None:
                headers[f"{prefix}-aws-kms-key-id"] = self.encryption.kms_key_id
            if self.encryption.bucket_key:
                headers[f"{prefix}-bucket-key-enabled"] = "true"
        return headers

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Where requests go."""
        return {"endpoint": self.store_endpoint}

    @property
    def idle_timeout_s(self) -> float:
        """See `ServerSettings`."""
        return self.idle_timeout

    @property
    def recipe(self) -> Recipe:
        """How windows become objects."""
        template = self._template()
        return Recipe(
            key=self.key,
            manifests=self.manifest_prefix or f"{template.root}_manifests/",
            format=self.format,
            compression=self.compression,
            level=_LEVELS[self.compression] if self.level is None else self.level,
        )

    @property
    def plan(self) -> DeliveryPlan:
        """How the engine delivers to it: in windows."""
        window = self.window
        return DeliveryPlan(
            window=WindowLimits(window.max_size, window.max_age, window.at_end),
            in_flight=_WINDOWS_IN_FLIGHT,
            dead_letter_bytes=self.dead_letters.max_size,
        )

    @property
    def exactly_once(self) -> bool:
        """An archive holds every line once."""
        return True

    @property
    def destination(self) -> str:
        """Two sinks of one configuration must not have their manifests in one place."""
        return f"{self.store_endpoint}/{self.bucket}/{self.recipe.manifests}"

    @property
    def warnings(self) -> Sequence[str]:
        """What makes many small objects, and what can be read on the way."""
        said = list(super().warnings)
        if is_plaintext_remote(self.store_endpoint):
            said.append("http://: anybody in between can read the lines")
        per_hour = _SECONDS_PER_HOUR / self.window.max_age
        fields = self._template().template.fields
        spread = sorted(fields & {"sandbox_id", "container", "display_name"})
        if spread:
            names = " and ".join(f"{{{name}}}" for name in spread)
            said.append(
                f"the key has {names}: every window makes an object for each of them, up to"
                f" {per_hour:,.0f} an hour for one that keeps talking; short ones make tiny objects"
            )
        elif per_hour > _MANY_OBJECTS_PER_HOUR:
            said.append(
                f"window.max_age makes up to {2 * per_hour:,.0f} objects an hour, manifests among"
                " them, and they are small unless a lot comes; 5m makes 24"
            )
        if self.window.at_end:
            said.append("window.at_end: every sandbox that ends makes at least two objects")
        return said

    def _template(self) -> KeyTemplate:
        return KeyTemplate.parse(self.key, get_format(self.format, 1).extension(self.compression))

    @model_validator(mode="after")
    def _key_is_possible(self) -> Self:
        try:
            template = self._template().template
        except TemplateError as error:
            raise problem(str(error), at=["key"], about=["key", "format", "compression"]) from error
        missing = {"sandbox_id", "container"} - template.fields
        if self.format == "text" and missing:
            raise problem(
                'format "text" does not say whose lines they are: the key needs {sandbox_id} and'
                " {container}",
                at=["key"],
                about=["key", "format"],
            )
        return self

    @model_validator(mode="after")
    def _store_is_known(self) -> Self:
        if self.store == "r2" and self.endpoint is None and self.account is None:
            raise problem('"r2" needs "account" or "endpoint"', about=["provider", "account"])
        if not self.store_endpoint:
            raise problem(f'"{self.store}" needs "endpoint"', about=["provider", "endpoint"])
        if not self.store_region:
            raise problem(
                f'"{self.store}" needs "region": the one that the bucket is in',
                about=["provider", "region"],
            )
        only = PRESETS[self.store].only
        if only is not None and self.addressing not in {None, only}:
            text = f'"{self.store}" allows "{only}" alone'
            raise problem(text, at=["addressing"], about=["provider", "addressing"])
        if self.store_addressing == "virtual" and not _DNS_BUCKET.fullmatch(self.bucket):
            text = "such a name cannot be part of a host's: only a-z, 0-9, . and -"
            raise problem(text, at=["bucket"], about=["bucket", "addressing"])
        return self

    @model_validator(mode="after")
    def _one_way_to_log_in(self) -> Self:
        self.refuse_both("secret_access_key", "secret_access_key_file")
        self.refuse_both("session_token", "session_token_file")
        has_secret = self.secret("secret_access_key") is not None
        if (self.access_key_id is None) == has_secret:
            key = "access_key_id" if has_secret is False else "secret_access_key"
            other = "secret_access_key" if has_secret is False else "access_key_id"
            raise problem(f'"{key}" needs "{other}", too', about=[key, other], seen=False)
        if self.secret("session_token") is not None and not has_secret:
            raise problem('"session_token" needs "access_key_id", too', seen=False)
        ways = [
            name
            for name, is_given in {
                "access_key_id": has_secret,
                "profile or credentials_file": bool(self.profile or self.credentials_file),
                "anonymous": self.anonymous,
            }.items()
            if is_given
        ]
        if len(ways) > 1:
            raise problem(f"{ways[0]} and {ways[1]} exclude each other", seen=False)
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.level is not None and self.level > _MAX_LEVELS[self.compression]:
            text = f'"{self.compression}" has levels up to {_MAX_LEVELS[self.compression]}'
            raise problem(text, at=["level"], about=["level", "compression"])
        if not self.anonymous and find_spec("botocore") is None:
            raise problem(
                "type s3 needs the extra `s3`: pip install 'sandbox-forwarder[s3]'",
                at=["type"],
                seen=False,
            )
        if self.format == "parquet" and find_spec("pyarrow") is None:
            raise problem(
                "it needs the extra `parquet`: pip install 'sandbox-forwarder[parquet]'",
                at=["format"],
            )
        return self

    def may_meet(self, other: SinkSettings) -> bool:
        """Whether the manifests of both would be in one place."""
        return isinstance(other, S3Settings) and self.destination == other.destination
