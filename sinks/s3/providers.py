"""What is known of stores. Pure.

Sources: docs.aws.amazon.com/general/latest/gr/s3.html; docs.coreweave.com "Configure endpoints" and
the release note on conditional writes; developers.cloudflare.com/r2/api/s3/api; min.io
documentation; cloud.google.com/storage/docs/interoperability; docs.ceph.com "Ceph object gateway S3
API". Whether a store writes only where nothing is, is never taken from here: it is tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.s3.addressing import Addressing

Provider = Literal["aws", "coreweave", "r2", "minio", "gcs", "ceph", "other"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A kind of store.

    Attributes:
        endpoint: Its address, in which `{region}` and `{account}` are replaced; empty when
            everybody has a store of their own.
        region: What is signed when nothing else is said; empty when it must be said.
        addressing: How buckets are addressed when nothing else is said.
        only: The one way that the store allows, if it is one.
    """

    endpoint: str
    region: str
    addressing: Addressing
    only: Addressing | None = None


PRESETS: Mapping[str, Preset] = {
    "aws": Preset("https://s3.{region}.amazonaws.com", "", "virtual"),
    "coreweave": Preset("https://cwobject.com", "", "virtual", only="virtual"),
    "r2": Preset("https://{account}.r2.cloudflarestorage.com", "auto", "path"),
    "minio": Preset("", "us-east-1", "path"),
    "gcs": Preset("https://storage.googleapis.com", "auto", "path"),
    "ceph": Preset("", "us-east-1", "path"),
    "other": Preset("", "us-east-1", "path"),
}
