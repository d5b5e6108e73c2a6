"""What the settings of the s3 sink are made of."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from sinks.settings import ByteSize, Duration, Section, Within, problem

#: Wider than any one store's rules: see `sinks.s3.providers` for those that are certain.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_WORD = re.compile(r"[A-Za-z0-9_.:/=@+-]+")
_HOST_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=/-]+")
#: The beginnings of keys are short, so that every key stays below 1,024 bytes.
_MAX_PREFIX = 512


def _check_bucket(name: str) -> str:
    if not _BUCKET.fullmatch(name) or ".." in name:
        raise problem('expected the name of a bucket, such as "my-logs", without "s3://" or "/"')
    return name


def _check_word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise problem("expected letters, digits and . _ : / = @ + -")
    return value


def _check_host_part(value: str) -> str:
    if not _HOST_PART.fullmatch(value):
        raise problem("expected letters, digits and . _ -")
    return value


def _check_prefix(value: str) -> str:
    names = value.removesuffix("/").split("/")
    if not _PREFIX.fullmatch(value) or {"", ".", ".."}.intersection(names):
        raise problem('expected the beginning of keys, such as "logs/_manifests/"')
    if len(value) > _MAX_PREFIX:
        raise problem(f"must have at most {_MAX_PREFIX} characters")
    return value if value.endswith("/") else f"{value}/"


BucketName = Annotated[str, AfterValidator(_check_bucket)]
Word = Annotated[str, AfterValidator(_check_word)]
#: What a preset's address is made of.
HostPart = Annotated[str, AfterValidator(_check_host_part)]
#: Ends in a slash, whether or not it is written.
KeyPrefix = Annotated[str, AfterValidator(_check_prefix)]


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
