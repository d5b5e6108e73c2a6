"""The settings of the Elasticsearch and OpenSearch sink."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, Field, model_validator

from sinks.bulk.answers import FILTER_PATH
from sinks.bulk.connection import is_api_key
from sinks.bulk.documents import BulkOptions
from sinks.bulk.names import HIGH_CARDINALITY_FIELDS, STAMP_FIELDS, IndexName, IndexNameError
from sinks.network import BatchSettings, NetworkSettings
from sinks.server import Url
from sinks.service import ServiceSettings
from sinks.settings import ByteSize, LocalPath, Secret, Within, problem

DEFAULT_DATA_STREAM = "logs-sandbox-default"
_BULK_PATH = "/_bulk"


def _check_name(text: str) -> str:
    try:
        IndexName.parse(text)
    except IndexNameError as error:
        raise problem(str(error)) from None
    return text


#: The name of an index or a data stream, with fields in braces.
NameTemplate = Annotated[str, AfterValidator(_check_name)]


class BulkBatchSettings(BatchSettings):
    """How much is sent at once: what both servers advise."""

    max_records: Annotated[int, Field(ge=1, le=1_000_000)] = 5_000
    """The most documents in one request."""
    max_bytes: Annotated[ByteSize, Within("1KiB", "64MiB")] = 5 * 1024 * 1024
    """About the most bytes of log in one request; as documents they are more."""


class ElasticsearchSettings(NetworkSettings):
    """Elasticsearch, OpenSearch, or a server that takes the same bulk requests."""

    type: Literal["elasticsearch"] = "elasticsearch"
    """The kind of sink."""
    endpoint: Url
    """The server, such as `https://search.example.com:9200`; a path may stand before `/_bulk`, and
    a query with parameters that the server wants."""
    data_stream: NameTemplate | None = None
    """The data stream to add to: `logs-sandbox-default` unless there is an `index`. `{service}` and
    `{container}` may stand in it."""
    index: NameTemplate | None = None
    """The index or alias to add to instead, such as `sandbox-logs-{date}`; `{date}` and `{hour}`
    are the line's own, UTC."""
    allow_high_cardinality: bool = False
    """Allow `{sandbox_id}` and `{display_name}` in names: an index for each sandbox."""
    document_ids: bool = True
    """Give each document its record id as `_id`, so that a resend stores nothing twice. Collections
    and data streams for time series refuse that: with `false`, a resend can leave duplicates."""
    dead_letter_index: NameTemplate | None = None
    """Where documents go that their index refuses, with nothing that could be refused in them."""
    pipeline: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """The ingest pipeline that documents go through."""
    service: ServiceSettings = ServiceSettings()
    """Where `service.name` comes from."""
    api_key: Secret | None = None
    """Sent as `Authorization: ApiKey ...`: the key as it was shown (`encoded`), or `id:key`."""
    api_key_file: LocalPath | None = None
    """The same from a file; it is read at every use."""
    batch: BulkBatchSettings = BulkBatchSettings()
    """How much is sent at once."""

    @property
    def endpoints(self) -> Mapping[str, str]:
        """The one address."""
        return {"endpoint": self.endpoint}

    @property
    def has_credentials(self) -> bool:
        """Whether requests carry anything that must stay secret."""
        return super().has_credentials or self.secret("api_key") is not None

    @property
    def target(self) -> IndexName:
        """The index or data stream."""
        return IndexName.parse(self.index or self.data_stream or DEFAULT_DATA_STREAM)

    @property
    def bulk_url(self) -> str:
        """Where requests go."""
        return self._bulk_url(self.pipeline)

    @property
    def fallback_url(self) -> str:
        """Where those for the dead letter index go: the pipeline may be what refused a record."""
        return self._bulk_url(None if self.pipeline is None else "_none")

    def _bulk_url(self, pipeline: str | None) -> str:
        parts = urlsplit(self.endpoint)
        path = parts.path.rstrip("/").removesuffix(_BULK_PATH) + _BULK_PATH
        theirs = parse_qsl(parts.query, keep_blank_values=True)
        # By default servers wait longer for a shard than we do for them: nobody would learn which.
        ours = {"filter_path": FILTER_PATH, "timeout": f"{max(1, int(self.timeout * 500))}ms"}
        if pipeline is not None:
            ours["pipeline"] = pipeline
        taken = {name for name, _ in theirs}
        query = theirs + [(name, value) for name, value in ours.items() if name not in taken]
        return parts._replace(path=path, query=urlencode(query, safe="*,@")).geturl()

    def url_of(self, path: str) -> str:
        """The address of another part of the server, such as `/_security/user`; `""` for itself."""
        parts = urlsplit(self.endpoint)
        base = parts.path.rstrip("/").removesuffix(_BULK_PATH)
        return parts._replace(path=base + (path or "/"), query="").geturl()

    @property
    def options(self) -> BulkOptions:
        """How records become documents."""
        return BulkOptions(self.target, self.service, self.document_ids, self.compression)

    @property
    def fallback_options(self) -> BulkOptions | None:
        """How refused records become documents of the dead letter index, if there is one."""
        if self.dead_letter_index is None:
            return None
        index = IndexName.parse(self.dead_letter_index)
        return BulkOptions(index, self.service, self.document_ids, self.compression)

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        self.refuse_both("data_stream", "index")
        if self.data_stream and not IndexName.parse(self.data_stream).fields.isdisjoint(
            STAMP_FIELDS
        ):
            text = "a data stream has no {date} or {hour}: the server begins new indices behind it"
            raise problem(text, at=["data_stream"], about=["data_stream"])
        return self

    @model_validator(mode="after")
    def _few_indices(self) -> Self:
        keys = ("data_stream", "index", "dead_letter_index")
        for key in () if self.allow_high_cardinality else keys:
            template = getattr(self, key)
            used = IndexName.parse(template).fields & HIGH_CARDINALITY_FIELDS if template else ()
            for name in sorted(used):
                raise problem(
                    f"{{{name}}} would make an index for every sandbox, and each has its price;"
                    ' the documents have it as a field, or set "allow_high_cardinality: true"',
                    at=[key],
                    about=[key, "allow_high_cardinality"],
                )
        return self

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        self.refuse_both("api_key", "api_key_file")
        others = [
            key for key in ("bearer_token", "bearer_token_file", "username") if getattr(self, key)
        ]
        others += [f"headers.{name}" for name in self.headers if name.lower() == "authorization"]
        if self.secret("api_key") is not None and others:
            raise problem(f"api_key and {others[0]} exclude each other", seen=False)
        if self.api_key is not None and not is_api_key(self.api_key.reveal()):
            text = "expected the key as it was shown, in base64, or as id:key"
            raise problem(text, at=["api_key"], about=["api_key"], seen=False)
        return self
