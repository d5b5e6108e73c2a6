"""A bucket in memory that answers as S3 does, and is strict where compatible stores are.

It refuses checksum headers, trailers and chunked signatures, and wants parts of one size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from tests.fakes.s3_signatures import error, verify
from tests.fakes.web_server import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fakes.web_server import Request

Conditions: TypeAlias = Literal["honoured", "ignored", "not_implemented", "invalid"]

_KEPT = ("content-type", "x-amz-meta-", "x-amz-storage-class", "x-amz-server-side-encryption")
_REFUSED = ("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer", "transfer-encoding")
_MISSING_ETAG = '""'


@dataclass(frozen=True)
class Stored:
    """An object, and the headers that it was written with."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'


@dataclass
class PartsUpload:
    """An upload that was begun."""

    key: str
    headers: Mapping[str, str]
    parts: dict[int, Stored] = field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """A request, taken apart."""

    request: Request
    key: str
    query: Mapping[str, str]

    def header(self, name: str) -> str:
        return self.request.headers.get(name, "")


class FakeBucket:
    """One bucket, addressed by path or by host.

    Args:
        name: Its name; every other one does not exist.
        conditions: What it makes of `If-None-Match: *`.
        keys: Secret keys by access key; when there are any, every request has to be signed.
        region: The only one whose signatures are taken.
        page_size: So many keys has a page of a list.

    Attributes:
        objects: By key.
        uploads: Begun and neither completed nor aborted, by id.
        overwritten: Keys that were written while they were there, once for each time.
        refused: What may not be done: methods, or `LIST`; the answer is 403.
        hides_missing: What is not there is forbidden, as to whom may not list the bucket.
        keeps_metadata: Whether it remembers what is said of objects.
    """

    def __init__(
        self,
        name: str,
        *,
        conditions: Conditions = "honoured",
        keys: Mapping[str, str] | None = None,
        region: str = "us-east-1",
        page_size: int = 1000,
    ) -> None:
        self.name = name
        self.conditions = conditions
        self.keys = dict(keys or {})
        self.region = region
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, PartsUpload] = {}
        self.overwritten: list[str] = []
        self.refused: set[str] = set()
        self.hides_missing = False
        self.keeps_metadata = True
        self._page_size = page_size
        self._begun = 0

    def answer(self, request: Request) -> Reply:
        """Do what is asked."""
        name, key, query = self._target(request)
        asked = _Asked(request, key, query)
        chunked = "aws-chunked" in request.headers.get("content-encoding", "")
        if chunked or any(header.startswith(_REFUSED) for header in request.headers):
            return error(501, "NotImplemented", "A header you provided implies functionality")
        if self.keys and (refusal := verify(request, self.keys, self.region)) is not None:
            return refusal
        if name != self.name:
            return error(404, "NoSuchBucket", "The specified bucket does not exist")
        if {request.method, "" if key else "LIST"} & self.refused:
            return error(403, "AccessDenied", "Access Denied")
        return self._of_object(asked) if key else self._of_bucket(asked)

    def _target(self, request: Request) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(request.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        host = request.headers.get("host", "")
        if host.startswith(f"{self.name}."):
            return self.name, unquote(parts.path[1:]), query
        name, _, key = parts.path[1:].partition("/")
        return unquote(name), unquote(key), query

    def _of_object(self, asked: _Asked) -> Reply:
        if "uploadId" in asked.query:
            return self._of_upload(asked)
        match asked.request.method:
            case "PUT":
                return self._put(asked)
            case "POST" if "uploads" in asked.query:
                return self._begin(asked)
            case "DELETE":
                self.objects.pop(asked.key, None)
                return Reply(204)
            case "HEAD" | "GET":
                return self._get(asked)
        return error(405, "MethodNotAllowed", "The specified method is not allowed")

    def _put(self, asked: _Asked) -> Reply:
        stored = Stored(asked.request.raw, _kept(asked.request) if self.keeps_metadata else {})
        refusal = self._land(asked, asked.key, stored)
        return Reply(200, {"etag": stored.etag}) if refusal is None else refusal

    def _land(self, asked: _Asked, key: str, stored: Stored) -> Reply | None:
        """Write an object if the condition holds; otherwise the refusal."""
        if asked.header("if-none-match"):
            if self.conditions == "not_implemented":
                return error(501, "NotImplemented", "A header you provided implies functionality")
            if self.conditions == "invalid":
                return error(400, "InvalidArgument", "If-None-Match is not supported")
            if self.conditions == "honoured" and key in self.objects:
                return error(412, "PreconditionFailed", "At least one pre-condition did not hold")
        if key in self.objects:
            self.overwritten.append(key)
        self.objects[key] = stored
        return None

    def _get(self, asked: _Asked) -> Reply:
        stored = self.objects.get(asked.key)
        if stored is None and self.hides_missing:
            return error(403, "AccessDenied", "Access Denied")
        if stored is None:
            return error(404, "NoSuchKey", "The specified key does not exist")
        headers = {"etag": stored.etag, **stored.headers}
        wanted = asked.header("range")
        if not wanted:
            return Reply(200, headers, stored.body)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        stop = min(int(last or len(stored.body)) + 1, len(stored.body))
        headers["content-range"] = f"bytes {first}-{stop - 1}/{len(stored.body)}"
        return Reply(206, headers, stored.body[int(first) : stop])

    def _of_bucket(self, asked: _Asked) -> Reply:
        if asked.request.method != "GET":
            return error(405, "MethodNotAllowed", "The specified method is not allowed")
        prefix = asked.query.get("prefix", "")
        if "uploads" in asked.query:
            begun = sorted((one.key, name) for name, one in self.uploads.items())
            found = "".join(
                f"<Upload><Key>{_shown(key, asked)}</Key><UploadId>{name}</UploadId></Upload>"
                for key, name in begun
                if key.startswith(prefix)
            )
            return _xml("ListMultipartUploadsResult", _encoding(asked) + found)
        after = max(asked.query.get("start-after", ""), asked.query.get("continuation-token", ""))
        keys = [key for key in sorted(self.objects) if key.startswith(prefix) and key > after]
        page = keys[: self._page_size]
        found = "".join(
            f"<Contents><Key>{_shown(key, asked)}</Key>"
            f"<Size>{len(self.objects[key].body)}</Size></Contents>"
            for key in page
        )
        more = "<IsTruncated>false</IsTruncated>"
        if len(page) < len(keys):
            token = escape(page[-1])
            more = (
                "<IsTruncated>true</IsTruncated>"
                f"<NextContinuationToken>{token}</NextContinuationToken>"
            )
        return _xml("ListBucketResult", _encoding(asked) + more + found)

    def _begin(self, asked: _Asked) -> Reply:
        self._begun += 1
        upload_id = f"upload-{self._begun}+/="
        self.uploads[upload_id] = PartsUpload(asked.key, _kept(asked.request))
        return _xml("InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>")

    def _of_upload(self, asked: _Asked) -> Reply:
        upload_id = asked.query["uploadId"]
        upload = self.uploads.get(upload_id)
        if upload is None or upload.key != asked.key:
            return error(404, "NoSuchUpload", "The specified upload does not exist")
        match asked.request.method:
            case "PUT":
                part = Stored(asked.request.raw)
                upload.parts[int(asked.query["partNumber"])] = part
                return Reply(200, {"etag": part.etag})
            case "DELETE":
                del self.uploads[upload_id]
                return Reply(204)
            case "POST":
                return self._complete(asked, upload_id, upload)
        return error(405, "MethodNotAllowed", "The specified method is not allowed")

    def _complete(self, asked: _Asked, upload_id: str, upload: PartsUpload) -> Reply:
        wanted = ET.fromstring(asked.request.raw)
        named = [
            (int(_text(part, "PartNumber")), _text(part, "ETag"))
            for part in wanted
            if part.tag.endswith("Part")
        ]
        parts = [upload.parts.get(number) for number, _ in named]
        etags = [_MISSING_ETAG if part is None else part.etag for part in parts]
        if not named or etags != [etag for _, etag in named]:
            return error(400, "InvalidPart", "One or more of the parts could not be found")
        bodies = [part.body for part in parts if part is not None]
        if len({len(body) for body in bodies[:-1]}) > 1:
            return error(400, "InvalidPart", "All non-trailing parts must have the same length")
        refusal = self._land(asked, upload.key, Stored(b"".join(bodies), upload.headers))
        if refusal is not None:
            return refusal
        del self.uploads[upload_id]
        return _xml("CompleteMultipartUploadResult", f"<Key>{escape(upload.key)}</Key>")


def _kept(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.startswith(_KEPT)}


def _xml(tag: str, inner: str) -> Reply:
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{tag} xmlns="{space}">{inner}</{tag}>'
    return Reply(200, {"content-type": "application/xml"}, body.encode())


def _encoding(asked: _Asked) -> str:
    return "<EncodingType>url</EncodingType>" if "encoding-type" in asked.query else ""


def _shown(key: str, asked: _Asked) -> str:
    return quote(key, safe="/") if "encoding-type" in asked.query else escape(key)


def _text(parent: ET.Element, name: str) -> str:
    found = (child.text for child in parent if child.tag.rpartition("}")[2] == name)
    return next(found, "") or ""
