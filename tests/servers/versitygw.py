"""versitygw 1.8.0: an S3 gateway that keeps objects as files.

What it does, found out by signed requests:

* `If-None-Match: *` answers 412 to a PUT and to a CompleteMultipartUpload of a key that is taken;
  of 16 PUTs at once one is a success. The refused upload stays until it is aborted.
* A body that is not what was signed is refused with 400 XAmzContentSHA256Mismatch, a wrong
  checksum, in a header or in a trailer, with 400 BadDigest; nothing is written.
* User metadata come back from HEAD, of objects in parts as well, and outlive a restart.
* ListMultipartUploads knows prefixes. Completing again is a success, a second abort 404
  NoSuchUpload.
* Both addressings. Keys in lists are never encoded, whatever is asked; EncodingType is empty.
* Storage classes and AES256 are taken. Another region is 400 AuthorizationHeaderMalformed, an
  access key that it does not know 404 XAdminUserNotFound.
* A key below another object's (`a/x/y` beside `a/x`) is 409 ObjectParentIsFile, and a part of a key
  of more than 255 bytes 400 KeyTooLongError: keys are paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tests.servers.process import SERVERS
from tests.servers.s3 import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server

if TYPE_CHECKING:
    from pathlib import Path


class VersityGw(S3Server):
    """versitygw on loopback, objects as files of their own names."""

    binary: ClassVar[Path] = SERVERS / "versitygw" / "versitygw"

    def command(self) -> list[str]:
        metadata = self.directory / "metadata"
        metadata.mkdir(exist_ok=True)
        return [
            str(self.binary),
            *("--access", ACCESS_KEY_ID, "--secret", SECRET_ACCESS_KEY, "--region", REGION),
            *("--port", f"127.0.0.1:{self.port}"),
            *("--virtual-domain", self.virtual_domain),
            *("--quiet", "--keep-alive"),
            # Not every file system has room for metadata in extended attributes.
            *("posix", "--sidecar", str(metadata), str(self.data)),
        ]
