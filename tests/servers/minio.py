"""MinIO on one directory, built from its source of 2026-02-12.

What it does, found out by signed requests:

* `If-None-Match: *` answers 412 to a PUT and to a CompleteMultipartUpload of a key that is taken;
  of 16 PUTs at once one is a success.
* A body that is not what was signed is refused with 400 XAmzContentSHA256Mismatch, a wrong
  checksum, in a header or in a trailer, with 400 XAmzContentChecksumMismatch; nothing is written.
* User metadata come back from HEAD, of objects in parts as well, and outlive a restart.
* ListMultipartUploads knows whole keys only: with the prefix `m/` it lists no upload of `m/1`, with
  the prefix `m/1` it does. A second abort is a success. Completing again is 404 NoSuchUpload.
* Both addressings. Keys in lists are encoded as forms, with `+` for a space, when asked to be.
* STANDARD_IA is 400 InvalidStorageClass, AES256 501 NotImplemented where it has no KMS; another
  region is 400 AuthorizationHeaderMalformed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tests.servers.process import SERVERS
from tests.servers.s3 import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server

if TYPE_CHECKING:
    from pathlib import Path


class Minio(S3Server):
    """MinIO on loopback, ready in half a second."""

    binary: ClassVar[Path] = SERVERS / "minio" / "minio"

    def command(self) -> list[str]:
        return [
            "env",
            f"MINIO_ROOT_USER={ACCESS_KEY_ID}",
            f"MINIO_ROOT_PASSWORD={SECRET_ACCESS_KEY}",
            f"MINIO_DOMAIN={self.virtual_domain}",
            *("MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_SITE_REGION=us-east-1"),
            *(str(self.binary), "server", "--quiet", "--address", f"127.0.0.1:{self.port}"),
            *("--config-dir", str(self.directory / "config")),
            str(self.data),
        ]
