"""Where objects are: addresses of buckets and keys, as they are both sent and signed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from sinks.interface import SinkMisconfiguredError

if TYPE_CHECKING:
    from collections.abc import Mapping

Addressing = Literal["virtual", "path"]

#: Signature version 4 for S3 wants every other byte as `%XX`, once
#: (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).
_UNRESERVED = "-_.~"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of a store.

    Attributes:
        endpoint: Scheme, host and maybe port; a path in it is kept.
        addressing: `virtual`: the bucket's name is part of the host's; `path`: of the path.
    """

    endpoint: str
    name: str
    addressing: Addressing

    @property
    def url(self) -> str:
        """The bucket's own address, with its final slash."""
        parts = urlsplit(self.endpoint)
        path = parts.path.rstrip("/")
        if self.addressing == "virtual":
            return f"{parts.scheme}://{self.name}.{parts.netloc}{path}/"
        return f"{parts.scheme}://{parts.netloc}{path}/{quote(self.name, safe=_UNRESERVED)}/"

    def of(self, key: str, query: Mapping[str, str] | None = None) -> str:
        """The address of an object, or of the bucket itself with an empty key.

        Raises:
            SinkMisconfiguredError: HTTP clients and proxies would make another address of it.
        """
        if not {".", ".."}.isdisjoint(key.split("/")):
            raise SinkMisconfiguredError(f"no key may have a part that is only dots: {key!a}")
        return self.url + quote(key, safe=f"/{_UNRESERVED}") + query_text(query)


def query_text(query: Mapping[str, str] | None) -> str:
    """The query with its question mark, in the order in which it is signed."""
    if not query:
        return ""
    pairs = sorted(
        (quote(k, safe=_UNRESERVED), quote(v, safe=_UNRESERVED)) for k, v in query.items()
    )
    return "?" + "&".join(f"{name}={value}" for name, value in pairs)
