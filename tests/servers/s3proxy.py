"""S3Proxy 3.1.0: S3 in Java, in front of a directory (`filesystem-nio2`).

What it does, found out by signed requests:

* `If-None-Match: *` answers 412 to a PUT of a key that is taken; of 16 PUTs at once two can be a
  success. A CompleteMultipartUpload with it overwrites what is there and answers 200.
* A body that is not what was signed is refused with 400 XAmzContentSHA256Mismatch. Checksums in
  headers are 501 NotImplemented; trailers are taken, a wrong one is 500. Nothing is written then.
* User metadata come back from HEAD, of objects in parts as well, and outlive a restart.
* ListMultipartUploads knows prefixes. A part for an upload that is not there is a success; only
  completing it is 404 NoSuchKey. A second abort is 404 NoSuchUpload.
* Both addressings. Keys in lists are encoded when asked to be.
* Storage classes are taken, AES256 is 501 NotImplemented. Any region will do.
* A key below another object's, and a part of a key of more than 255 bytes, are 500.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tests.servers.process import SERVERS
from tests.servers.s3 import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server

if TYPE_CHECKING:
    from pathlib import Path

_LOGGING = '<configuration><root level="OFF"/></configuration>'


class S3Proxy(S3Server):
    """S3Proxy on loopback. One a session: it takes seconds to start."""

    binary: ClassVar[Path] = SERVERS / "s3proxy" / "lib"

    def command(self) -> list[str]:
        properties, logging = self.directory / "properties", self.directory / "logback.xml"
        properties.write_text("".join(f"{k}={v}\n" for k, v in self._properties().items()))
        logging.write_text(_LOGGING)
        return [
            "java",
            "-Xmx256m",
            "-XX:+UseSerialGC",
            # It lives for seconds, in which thorough compilation does not pay.
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            f"-Djava.io.tmpdir={self.directory}",
            f"-Dlogback.configurationFile={logging}",
            *("-classpath", f"{self.binary}/*", "org.gaul.s3proxy.Main"),
            *("--properties", str(properties)),
        ]

    def _properties(self) -> dict[str, str]:
        return {
            "s3proxy.endpoint": self.endpoint,
            "s3proxy.authorization": "aws-v4",
            "s3proxy.identity": ACCESS_KEY_ID,
            "s3proxy.credential": SECRET_ACCESS_KEY,
            "s3proxy.virtual-host": self.virtual_domain,
            "jclouds.provider": "filesystem-nio2",
            "jclouds.filesystem.basedir": str(self.data),
        }
