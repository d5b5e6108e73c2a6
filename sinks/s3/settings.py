"""The settings of the s3 sink."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sinks.addresses import is_plaintext_remote
from sinks.plan import DeliveryPlan, WindowLimits
from sinks.s3.addressing import Addressing
from sinks.s3.advice import advice
from sinks.s3.formats.interface import Compression, FormatName
from sinks.s3.formats.registry import get_format
from sinks.s3.keys import KeyTemplate
from sinks.s3.plan import Recipe
from sinks.s3.providers import PRESETS, Provider, fits_host, provider_at
from sinks.s3.rules import check_address, check_bucket, check_objects
from sinks.s3.sections import (
    BucketName,
    EncryptionSettings,
    HostPart,
    KeyPrefix,
    WindowSettings,
    Word,
)
from sinks.server import ServerSettings, Url
from sinks.settings import (
    ByteSize,
    Duration,
    LocalPath,
    Secret,
    SinkSettings,
    Variable,
    Within,
    problem,
)
from sinks.template import TemplateError

#: One window in flight is uploaded while the next one is built.
_WINDOWS_IN_FLIGHT = 2
_LEVELS: Mapping[str, int] = {"zstd": 3, "gzip": 6, "none": 0}
_MAX_LEVELS: Mapping[str, int] = {"zstd": 19, "gzip": 9, "none": 0}


class S3Settings(ServerSettings):
    """A bucket of S3 or of a compatible store: every line once, in objects, for good."""

    type: Literal["s3"] = "s3"
    """The kind of sink."""
    provider: Provider | None = None
    """What kind of store it is: `aws`, `coreweave` (AI Object Storage), `r2` (Cloudflare), `minio`,
    `gcs` (Google Cloud Storage, with HMAC keys), `ceph` or `other`. Left out, what the endpoint's
    host says, and `aws` without an endpoint."""
    bucket: BucketName
    """The bucket. It has to exist; the sink creates none."""
    endpoint: Url | None = None
    """The store's address, without the bucket. Amazon, CoreWeave, Google, and Cloudflare with an
    `account`, have one by themselves."""
    account: HostPart | None = None
    """Only for `r2`: the account's id, of which its endpoint is made."""
    region: HostPart | None = None
    """The bucket's region. Left out, what the provider always has, such as `auto`; or AWS_REGION or
    AWS_DEFAULT_REGION, when provider and endpoint are left out, too."""
    addressing: Addressing | None = None
    """`virtual`: the bucket is part of the host's name. `path`: part of the path. Left out, what
    the provider wants, and `path` for a bucket that cannot be part of a host's name."""
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
    """How hard to compress: 1 to 19 for zstd, 1 to 9 for gzip. Left out, 3 and 6."""
    window: WindowSettings = WindowSettings()
    """When what has come becomes objects."""
    manifest_prefix: KeyPrefix | None = None
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
    """Sign nothing, for stores that ask nobody who they are."""
    storage_class: Word | None = None
    """The storage class of objects, such as `STANDARD_IA`; left out, the bucket's. A lifecycle rule
    is better for classes that have to be restored before they can be read."""
    encryption: EncryptionSettings | None = None
    """How the store encrypts objects."""
    conditional_writes: Literal["auto", "on", "off"] = "auto"
    """Whether the store itself is asked to refuse to write a key twice (`If-None-Match: *`). `auto`
    tries at every start whether it does, with a small object beside the manifests; `off` looks
    whether there is something before each write."""
    multipart_above: Annotated[ByteSize, Within("5MiB", "5GiB")] = 256 * 1024 * 1024
    """Objects larger than this are uploaded in parts; others in one request."""
    part_size: Annotated[ByteSize, Within("5MiB", "5GiB")] = 64 * 1024 * 1024
    """The size of these parts; all are equal but the last, as some stores demand."""
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
        return self.provider or provider_at(self.endpoint)

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
        if self.store == "aws" and self.store_region.startswith("cn-"):
            preset = f"{preset}.cn"
        return preset.format(region=self.store_region, account=self.account or "")

    @property
    def store_addressing(self) -> Addressing:
        """How the bucket is addressed."""
        if self.addressing is not None:
            return self.addressing
        preset = PRESETS[self.store]
        # A dot in the name is one label too many for the certificate of `*.s3.example.com`.
        fits = fits_host(self.bucket) and "." not in self.bucket
        return preset.addressing if fits or preset.only is not None else "path"

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
        """Where the manifests are: what one archive is."""
        return f"{self.store_endpoint.rstrip('/')}/{self.bucket}/{self.recipe.manifests}"

    def may_meet(self, other: SinkSettings) -> bool:
        """Whether both would make one archive, which would have every line twice.

        Objects never meet: the name of the window, which is in every key, is made of the sink's.
        """
        if not isinstance(other, S3Settings):
            return False
        ours, theirs = self.destination, other.destination
        return ours.startswith(theirs) or theirs.startswith(ours)

    @property
    def warnings(self) -> Sequence[str]:
        """What makes many small objects, what is hard to read, and what others can read."""
        return [*super().warnings, *advice(self, self._template())]

    def _template(self) -> KeyTemplate:
        return KeyTemplate.parse(self.key, get_format(self.format, 1).extension(self.compression))

    @model_validator(mode="after")
    def _extras_are_installed(self) -> Self:
        if not self.anonymous and find_spec("botocore") is None:
            text = 'needs the extra "s3": pip install "sandbox-forwarder[s3]"'
            raise problem(text, at=["type"])
        if self.format == "parquet" and find_spec("pyarrow") is None:
            text = 'needs the extra "parquet": pip install "sandbox-forwarder[parquet]"'
            raise problem(text, at=["format"])
        return self

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
                at=["key" if "key" in self.model_fields_set else "format"],
                about=["key", "format"],
            )
        return self

    @model_validator(mode="after")
    def _compression_has_the_level(self) -> Self:
        most = _MAX_LEVELS[self.compression]
        if self.level is not None and self.level > most:
            has = f"levels up to {most}" if most else "no level"
            text = f'compression "{self.compression}" has {has}'
            raise problem(text, at=["level"], about=["level", "compression"])
        return self

    @model_validator(mode="after")
    def _fits_the_store(self) -> Self:
        check_address(self)
        check_bucket(self)
        check_objects(self)
        return self

    @model_validator(mode="after")
    def _not_in_the_clear(self) -> Self:
        if self.anonymous or self.allow_plaintext or not is_plaintext_remote(self.store_endpoint):
            return self
        # Signatures do not give the secret key away, but lines and session tokens are readable.
        text = (
            "http:// lets everybody in between read the lines, and a session token;"
            ' use https://, or set "allow_plaintext: true"'
        )
        raise problem(text, at=["endpoint"], about=["endpoint", "allow_plaintext"], seen=False)

    @model_validator(mode="after")
    def _one_way_to_log_in(self) -> Self:
        self.refuse_both("secret_access_key", "secret_access_key_file")
        self.refuse_both("session_token", "session_token_file")
        about = ["access_key_id", "secret_access_key", "secret_access_key_file", "session_token"]
        has_secret = self.secret("secret_access_key") is not None
        if self.access_key_id is not None and not has_secret:
            text = '"access_key_id" needs "secret_access_key" or "secret_access_key_file", too'
            raise problem(text, about=about, seen=False)
        for key in ("secret_access_key", "session_token"):
            if self.secret(key) is not None and self.access_key_id is None:
                raise problem(f'"{key}" needs "access_key_id", too', about=about, seen=False)
        ways = {
            "access_key_id": self.access_key_id is not None,
            "profile": self.profile is not None,
            "credentials_file": self.credentials_file is not None,
            "anonymous": self.anonymous,
        }
        given = [key for key, is_given in ways.items() if is_given]
        if len(given) > 1 and given != ["profile", "credentials_file"]:
            text = f'"{given[0]}" and "{given[1]}" exclude each other'
            raise problem(text, at=[given[1]], about=[*about, *given], seen=False)
        return self
