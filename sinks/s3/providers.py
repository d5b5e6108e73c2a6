"""What is known of stores. Pure.

Whether a store writes only where nothing is, is never taken from here: it is tried.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.s3.addressing import Addressing

Provider = Literal["aws", "coreweave", "r2", "minio", "gcs", "ceph", "other"]

#: What a DNS name allows, and the rules for names of buckets at Amazon.
_BUCKET = r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?"


@dataclass(frozen=True, slots=True)
class Preset:
    """A kind of store.

    Attributes:
        endpoint: Its address, in which `{region}` and `{account}` are replaced; empty when
            everybody has a store of their own.
        region: What is signed when nothing else is said; empty when it must be said.
        addressing: How buckets are addressed when nothing else is said.
        only: The one way that the store allows, if it is one.
        hosts: What hosts of its own fully match; empty when it has none.
        buckets: What names of buckets fully match; empty when nothing is certain.
        bucket_rule: The same for people.
        encrypts: Whether it knows headers that say how to encrypt an object.
        storage_classes: All that it knows; None when that is not certain.
    """

    endpoint: str
    region: str
    addressing: Addressing
    only: Addressing | None = None
    hosts: str = ""
    buckets: str = ""
    bucket_rule: str = ""
    encrypts: bool = True
    storage_classes: tuple[str, ...] | None = None


PRESETS: Mapping[str, Preset] = {
    # docs.aws.amazon.com/general/latest/gr/s3.html. Before 2018 buckets could have other names, and
    # some have them still, so those are not refused.
    "aws": Preset(
        "https://s3.{region}.amazonaws.com",
        "",
        "virtual",
        hosts=r"(.+\.)?amazonaws\.com(\.cn)?",
    ),
    # docs.coreweave.com: "Set endpoints", "Create buckets", "Object storage conditional writes".
    "coreweave": Preset(
        "https://cwobject.com",
        "",
        "virtual",
        only="virtual",
        hosts=r"(.+\.)?(cwobject|cwlota)\.com",
        buckets=r"(?!xn--|cw-|vip-)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]",
        bucket_rule="3 to 63 of a-z, 0-9 and -, and neither cw- nor vip- in front",
    ),
    # developers.cloudflare.com/r2/api/s3/api: neither SSE headers nor other storage classes.
    "r2": Preset(
        "https://{account}.r2.cloudflarestorage.com",
        "auto",
        "path",
        hosts=r"(.+\.)?r2\.cloudflarestorage\.com",
        buckets=r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]",
        bucket_rule="3 to 63 of a-z, 0-9 and -",
        encrypts=False,
        storage_classes=("STANDARD", "STANDARD_IA"),
    ),
    "minio": Preset("", "us-east-1", "path"),
    # cloud.google.com/storage/docs/interoperability, with HMAC keys.
    "gcs": Preset(
        "https://storage.googleapis.com",
        "auto",
        "path",
        hosts=r"(.+\.)?storage\.googleapis\.com",
    ),
    # docs.ceph.com, "Ceph object gateway S3 API".
    "ceph": Preset("", "us-east-1", "path"),
    "other": Preset("", "us-east-1", "path"),
}


def provider_at(endpoint: str | None) -> Provider:
    """What kind of store is at an address, as far as its host tells; without one, Amazon's."""
    if endpoint is None:
        return "aws"
    host = urlsplit(endpoint).hostname or ""
    names: tuple[Provider, ...] = ("aws", "coreweave", "r2", "gcs")
    return next((name for name in names if re.fullmatch(PRESETS[name].hosts, host)), "other")


def fits_host(bucket: str) -> bool:
    """Whether a bucket's name can be the first part of a host's."""
    return len(bucket) <= 63 and re.fullmatch(_BUCKET, bucket) is not None  # noqa: PLR2004 - DNS
