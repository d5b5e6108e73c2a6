"""Which settings of an archive fit its store. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sinks.s3.providers import PRESETS, fits_host
from sinks.settings import problem

if TYPE_CHECKING:
    from sinks.s3.settings import S3Settings

_ABOUT = ("provider", "endpoint", "account", "region")


def check_address(settings: S3Settings) -> None:
    """See that everything is known that makes the store's address.

    Raises:
        PydanticCustomError: Something is missing, or too much.
    """
    store = settings.store
    if store == "r2" and settings.endpoint is None and settings.account is None:
        raise problem('"r2" needs "account" or "endpoint"', about=_ABOUT)
    if settings.account is not None and (store != "r2" or settings.endpoint is not None):
        text = 'only "provider: r2" has it, without an endpoint'
        raise problem(text, at=["account"], about=_ABOUT)
    if not settings.store_endpoint:
        raise problem(f'"{store}" needs "endpoint"', about=_ABOUT)
    if settings.endpoint is not None:
        _check_endpoint(settings.endpoint, settings.bucket, PRESETS[store].hosts)
    if not settings.store_region:
        text = f'"{store}" needs "region": the one that the bucket is in'
        raise problem(text, about=_ABOUT)


def _check_endpoint(endpoint: str, bucket: str, hosts: str) -> None:
    url = urlsplit(endpoint)
    if url.query:
        raise problem('the address of a store has no "?"', at=["endpoint"], about=["endpoint"])
    host = url.hostname or ""
    # A host of one's own may well begin with what a bucket is called.
    in_host = host.startswith(f"{bucket}.") and re.fullmatch(hosts, host)
    if in_host or url.path.rstrip("/").endswith(f"/{bucket}"):
        text = "it has the bucket in it already: leave that out there"
        raise problem(text, at=["endpoint"], about=["endpoint", "bucket"])


def check_bucket(settings: S3Settings) -> None:
    """See that the store can have such a bucket, addressed in this way.

    Raises:
        PydanticCustomError: It cannot.
    """
    preset = PRESETS[settings.store]
    about = (*_ABOUT, "bucket", "addressing")
    if preset.only is not None and settings.addressing not in {None, preset.only}:
        text = f'"{settings.store}" knows "{preset.only}" only'
        raise problem(text, at=["addressing"], about=about)
    if preset.buckets and not re.fullmatch(preset.buckets, settings.bucket):
        text = f'buckets of "{settings.store}" have names of {preset.bucket_rule}'
        raise problem(text, at=["bucket"], about=about)
    if settings.store_addressing == "virtual" and not fits_host(settings.bucket):
        text = "cannot be part of a host's name: that has a-z, 0-9, . and -, 63 at most"
        raise problem(text, at=["bucket"], about=about)


def check_objects(settings: S3Settings) -> None:
    """See that the store can write objects as it is asked to.

    Raises:
        PydanticCustomError: It refuses that, for certain.
    """
    preset = PRESETS[settings.store]
    about = (*_ABOUT, "encryption", "storage_class")
    if settings.encryption is not None and not preset.encrypts:
        text = f'"{settings.store}" encrypts everything by itself, and refuses to be told how'
        raise problem(text, at=["encryption"], about=about, seen=False)
    known = preset.storage_classes
    if known is not None and settings.storage_class not in {None, *known}:
        names = " and ".join(f'"{name}"' for name in known)
        raise problem(f'"{settings.store}" has {names}', at=["storage_class"], about=about)
