"""One bucket over S3's HTTP interface: one attempt a call, and the truth about it.

Plain signed requests with a `content-length`: no chunked signatures, no trailers, no checksum
headers, which many compatible stores refuse (docs/sinks/s3.md). The body's SHA-256 is signed, so a
store that verifies signatures notices what was damaged on the way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from sinks.answers import origin
from sinks.closing import closing
from sinks.credentials import concealed
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.addressing import Bucket
from sinks.s3.answers import (
    NoConditionError,
    ObjectExistsError,
    ObjectMissingError,
    UploadGoneError,
    check_answer,
    parse_xml,
)
from sinks.s3.body import FilePart
from sinks.s3.signing import Signer, telling_values
from sinks.web import WebClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from xml.etree.ElementTree import Element

    from sinks.answers import Answer
    from sinks.s3.answers import Subject
    from sinks.s3.settings import S3Settings

__all__ = [
    "Found",
    "Listed",
    "NoConditionError",
    "ObjectExistsError",
    "ObjectMissingError",
    "ObjectStore",
    "UploadGoneError",
]

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_META = "x-amz-meta-"
#: A page of a list has at most a thousand keys of at most 1,024 bytes, escaped.
_MAX_LIST_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """An object as the store describes it.

    Attributes:
        metadata: Ours, names in lower case.
    """

    size_bytes: int
    etag: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a list."""

    key: str
    size_bytes: int


class ObjectStore:
    """The bucket of an s3 sink. Use it on one event loop.

    Every method raises SinkUnavailableError (the same again later) and SinkMisconfiguredError
    (somebody must mend something), and what else it says.
    """

    def __init__(self, settings: S3Settings) -> None:
        """Touches nothing until `open`."""
        self._settings = settings
        self._bucket = Bucket(settings.store_endpoint, settings.bucket, settings.store_addressing)
        self._web = WebClient(settings)
        self._signer = Signer(settings, settings.store_region)

    async def open(self) -> None:
        """Read certificates; connects at the first request."""
        await self._web.open()

    async def close(self) -> None:
        """Close every connection; may be called again, and before `open`."""
        await self._web.close()

    async def put(
        self,
        key: str,
        body: bytes | FilePart,
        *,
        media_type: str,
        metadata: Mapping[str, str],
        create_only: bool,
    ) -> None:
        """Write an object; when this returns the store has it.

        Raises:
            ObjectExistsError: With `create_only`: there is one of this key.
            NoConditionError: With `create_only`: the store does not know how.
        """
        headers = self._object_headers(media_type, metadata)
        headers |= self._condition(create_only=create_only)
        answer = await self._ask(
            "PUT", key, body=body, headers=headers, subject="bucket", conditional=create_only
        )
        if "etag" not in answer.headers:
            # No store leaves it out: something in between has answered, or the store is confused.
            raise SinkUnavailableError("the store confirmed a PUT without an ETag")

    async def head(self, key: str) -> Found | None:
        """What is there under this key; None when nothing is."""
        try:
            answer = await self._ask("HEAD", key)
        except ObjectMissingError:
            return None
        metadata = {
            name.removeprefix(_META): value
            for name, value in answer.headers.items()
            if name.startswith(_META)
        }
        return Found(_number(answer.headers.get("content-length")), _etag(answer), metadata)

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """An object's bytes, some at a time.

        Raises:
            ObjectMissingError: There is none.
        """
        url = self._bucket.of(key)
        headers = await self._signer.signed("GET", url, {}, _EMPTY_SHA256)
        async with self._web.stream(url, headers) as (answer, pieces):
            self._check(answer, url, headers)
            whole_bytes = _number(answer.headers.get("content-length"))
            got_bytes = 0
            async with closing(pieces):
                async for piece in pieces:
                    got_bytes += len(piece)
                    yield piece
            if got_bytes < whole_bytes:
                raise SinkUnavailableError(f"{origin(url)} broke off in the middle of {key}")

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        try:
            await self._ask("DELETE", key)
        except ObjectMissingError:
            return

    async def list(self, prefix: str, start_after: str = "") -> AsyncIterator[Listed]:
        """Every object whose key begins so, in the order of their keys.

        Args:
            prefix: How keys begin.
            start_after: Only those that come after this key.
        """
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
        if start_after:
            query["start-after"] = start_after
        while True:
            page = await self._xml("GET", "", query, "ListBucketResult")
            encoded = page.findtext("EncodingType") == "url"
            for entry in page.iter("Contents"):
                key = entry.findtext("Key") or ""
                yield Listed(unquote_plus(key) if encoded else key, _number(entry.findtext("Size")))
            token = page.findtext("NextContinuationToken")
            if page.findtext("IsTruncated") != "true" or not token:
                return
            if token == query.get("continuation-token"):
                raise SinkUnavailableError(f"{origin(self._bucket.url)} lists one page for ever")
            query["continuation-token"] = token

    async def begin_multipart(
        self, key: str, *, media_type: str, metadata: Mapping[str, str]
    ) -> str:
        """Begin an upload in parts; returns its id."""
        headers = self._object_headers(media_type, metadata)
        result = await self._xml(
            "POST", key, {"uploads": ""}, "InitiateMultipartUploadResult", headers
        )
        upload_id = result.findtext("UploadId")
        if not upload_id:
            raise SinkUnavailableError("the store began an upload and did not say which")
        return upload_id

    async def put_part(self, key: str, upload_id: str, number: int, body: FilePart) -> str:
        """Send one part; returns what the store calls it.

        Args:
            key: The object's.
            upload_id: The upload.
            number: From 1.
            body: The part.

        Raises:
            UploadGoneError: The store does not know the upload.
        """
        query = {"partNumber": str(number), "uploadId": upload_id}
        answer = await self._ask("PUT", key, query, body=body, subject="upload")
        etag = answer.headers.get("etag")
        if not etag:
            raise SinkUnavailableError("the store confirmed a part without an ETag")
        return etag

    async def complete_multipart(
        self, key: str, upload_id: str, etags: Sequence[str], *, create_only: bool
    ) -> None:
        """Make the object of its parts.

        Raises:
            UploadGoneError: The store does not know the upload.
            ObjectExistsError: With `create_only`: there is one of this key.
            NoConditionError: With `create_only`: the store does not know how.
        """
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{_escaped(etag)}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = (
            '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"{parts}</CompleteMultipartUpload>"
        )
        answer = await self._ask(
            "POST",
            key,
            {"uploadId": upload_id},
            body=body.encode(),
            headers=self._condition(create_only=create_only),
            subject="upload",
            conditional=create_only,
        )
        # White space may come for minutes before the result, which may be none.
        result = parse_xml(answer.body.strip())
        if result is None or result.tag != "CompleteMultipartUploadResult":
            raise SinkUnavailableError("the store did not say what became of an upload")

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Give an upload up, with its parts.

        Raises:
            UploadGoneError: The store does not know it.
        """
        await self._ask("DELETE", key, {"uploadId": upload_id}, subject="upload")

    async def uploads(self, prefix: str) -> Sequence[tuple[str, str]]:
        """Key and id of uploads that were begun, of keys that begin so: at most a thousand."""
        query = {"uploads": "", "prefix": prefix, "encoding-type": "url"}
        page = await self._xml("GET", "", query, "ListMultipartUploadsResult")
        encoded = page.findtext("EncodingType") == "url"
        found = [
            (one.findtext("Key") or "", one.findtext("UploadId") or "")
            for one in page.iter("Upload")
        ]
        return [(unquote_plus(key) if encoded else key, name) for key, name in found]

    def _object_headers(self, media_type: str, metadata: Mapping[str, str]) -> dict[str, str]:
        ours = {f"{_META}{name}": value for name, value in metadata.items() if value}
        return {"content-type": media_type, **ours, **self._settings.object_headers}

    @staticmethod
    def _condition(*, create_only: bool) -> dict[str, str]:
        return {"if-none-match": "*"} if create_only else {}

    async def _xml(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        tag: str,
        headers: Mapping[str, str] | None = None,
    ) -> Element:
        answer = await self._ask(
            method,
            key,
            query,
            headers=headers,
            subject="bucket",
            max_answer_bytes=_MAX_LIST_BYTES,
        )
        root = parse_xml(answer.body.strip())
        if root is None or root.tag != tag:
            text = f"{origin(self._bucket.url)} does not answer as S3 does: expected {tag}"
            raise SinkMisconfiguredError(f"{text}; mend endpoint or addressing")
        return root

    async def _ask(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        *,
        body: bytes | FilePart | None = None,
        headers: Mapping[str, str] | None = None,
        subject: Subject = "object",
        conditional: bool = False,
        **more: Any,
    ) -> Answer:
        """One request; its answer when it is a success."""
        url = self._bucket.of(key, query)
        sha256, content, size_bytes = _content(body)
        sent = await self._signer.signed(method, url, headers or {}, sha256)
        if method in {"PUT", "POST"}:
            sent["content-length"] = str(size_bytes)
        answer = await self._web.request(method, url, content, sent, **more)
        self._check(answer, url, sent, subject=subject, conditional=conditional)
        return answer

    def _check(
        self,
        answer: Answer,
        url: str,
        sent: Mapping[str, str],
        *,
        subject: Subject = "object",
        conditional: bool = False,
    ) -> None:
        if answer.status >= 300:  # noqa: PLR2004 - whatever is no success
            answer = concealed(answer, telling_values(sent))
        try:
            check_answer(answer, url=url, subject=subject, conditional=conditional)
        except SinkMisconfiguredError as error:
            if error.credentials:
                self._signer.forget()
            raise


def _content(
    body: bytes | FilePart | None,
) -> tuple[str, bytes | AsyncIterator[bytes] | None, int]:
    """The digest of a body, itself, and its length."""
    if isinstance(body, FilePart):
        return body.sha256, body.blocks(), body.size_bytes
    if not body:
        return _EMPTY_SHA256, None, 0
    return hashlib.sha256(body).hexdigest(), body, len(body)


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0


def _etag(answer: Answer) -> str:
    return answer.headers.get("etag", "")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
