"""What stores answer, and what that means to the engine. Pure.

No store ever makes lines be dropped: what it will not take holds the sink, with words that say what
to mend (the table in sinks.md 2.0 of the protocol notes; codes from the S3 API reference, "Error
responses"). Of an answer only its code, its message and its request's name are shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree as ET

from sinks.answers import origin, printable
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError

if TYPE_CHECKING:
    from sinks.answers import Answer


class ObjectExistsError(Exception):
    """Another object has this key already, or ours of an earlier attempt; nothing was written."""


class ObjectMissingError(Exception):
    """There is no object of this key."""


class UploadGoneError(Exception):
    """The store does not know this upload in parts: it is completed, aborted, or was cleared."""


class NoConditionError(SinkMisconfiguredError):
    """The store does not know how to write only where nothing is."""


#: What a request is about, and so what is not there when the answer is 404.
Subject = Literal["object", "upload", "bucket"]


@dataclass(frozen=True, slots=True)
class StoreError:
    """What an error answer says.

    Attributes:
        code: Such as `SlowDown`; `Error` when it is left out, and empty when there was no body, or
            another one than S3's.
        region: Where the bucket is, when the store says so.
    """

    code: str = ""
    message: str = ""
    region: str = ""
    request_id: str = ""

    def __str__(self) -> str:
        said = ": ".join(filter(None, [self.code, self.message]))
        return f"{said} (request {self.request_id})" if said and self.request_id else said


#: Trouble of the moment, whatever the status it comes with.
_LATER = frozenset(
    {
        *("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestThrottled"),
        *("TooManyRequests", "RequestLimitExceeded", "BandwidthLimitExceeded", "InternalError"),
        *("ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict"),
        # The body was damaged or cut on its way.
        *("BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "InvalidDigest"),
    }
)
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_EXPIRED = frozenset(
    {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException"}
)
_ELSEWHERE = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    }
)
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _PROXY_LOGIN = 400, 401, 403, 404, 407
_SERVER_ERROR, _NOT_IMPLEMENTED = 500, 501
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LATER_STATUSES = frozenset({408, 409, 425, 429})
#: 304 is the word of stores that read the condition as that of a GET.
_EXISTS = frozenset({304, 412})
#: What stores that do not know the condition say with 400.
_NO_CONDITION = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest"})
#: The upload is unknown, or its parts are not those that were sent.
_NO_UPLOAD = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder"})
#: What versitygw says with 404.
_UNKNOWN_KEY = frozenset({"XAdminUserNotFound"})
#: A 403 that says nothing against our credentials.
_NO_ROOM = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_REFUSED = frozenset({_UNAUTHORIZED, _FORBIDDEN, _PROXY_LOGIN})
_NO_REASON = "it does not say why: look at the credentials, region, encryption and storage_class"
_UNKNOWN_FEATURE = (
    "the store cannot do this: see provider, conditional_writes, encryption and storage_class"
)
_STATUS_WORDS = {
    _UNAUTHORIZED: "it refuses our credentials",
    _FORBIDDEN: "it refuses our credentials",
    _PROXY_LOGIN: "a proxy in between wants a login",
    _NOT_FOUND: "there is no object store, or no such bucket: mend endpoint, addressing or bucket",
    _NOT_IMPLEMENTED: _UNKNOWN_FEATURE,
    413: "something in between does not take bodies of this size: lower window.max_size, or"
    " multipart_above and part_size",
}
_WORDS = {
    "AccessDenied": "these credentials may not do this: see the policy in the documentation of the"
    " sink",
    "AllAccessDisabled": "the bucket is disabled",
    "InvalidAccessKeyId": "the store does not know this access key: mend access_key_id",
    "XAdminUserNotFound": "the store does not know this access key: mend access_key_id",
    "ObjectParentIsFile": "the store keeps keys as paths, and a part of this one is an object: mend"
    " key",
    "KeyTooLongError": "the store takes no key of this length: mend key",
    "SignatureDoesNotMatch": "the secret key is wrong, or the region or endpoint is another"
    " store's: mend secret_access_key",
    "NoSuchBucket": "there is no such bucket: create it, or mend bucket, endpoint or region",
    "EntityTooLarge": "the store does not take objects of this size: lower window.max_size or"
    " multipart_above",
    "NotImplemented": _UNKNOWN_FEATURE,
    "InvalidStorageClass": "the store does not know this storage_class",
    "KMS.DisabledException": "the key for encryption is disabled",
    "KMS.NotFoundException": "there is no such key: mend encryption.kms_key_id",
    "InsufficientStorage": "the store is full",
    "QuotaExceeded": "the store's quota is used up",
    "XMinioStorageFull": "the store is full",
}
_MAX_CODE = 64
_TAG = re.compile(r"\{[^}]*\}")


def parse_xml(body: bytes) -> ET.Element | None:
    """An answer's body without its name spaces; None when it is none.

    Documents with a type of their own are refused: S3 has none, and entities can grow without end.
    So is every encoding but UTF-8, in which one could hide.
    """
    try:
        text = body.decode("utf-8-sig")
        root = None if "<!" in text else ET.fromstring(text)  # noqa: S314 - bounded; no declarations
    except (ET.ParseError, UnicodeDecodeError):
        return None
    if root is None:
        return None
    for element in root.iter():
        element.tag = _TAG.sub("", element.tag)
    return root


def parse_error(answer: Answer) -> StoreError:
    """What the answer says; its headers tell the region even where there is no body."""
    region = printable(answer.headers.get("x-amz-bucket-region", ""))
    request_id = printable(answer.headers.get("x-amz-request-id", ""))[:_MAX_CODE]
    root = parse_xml(answer.body.strip())
    if root is None or root.tag != "Error":
        return StoreError("", "", region, request_id)
    code = printable(root.findtext("Code") or "Error")[:_MAX_CODE]
    message = printable(root.findtext("Message") or "")
    return StoreError(code, message, printable(root.findtext("Region") or "") or region, request_id)


def check_answer(
    answer: Answer, *, url: str, subject: Subject = "object", conditional: bool = False
) -> None:
    """Return when it is a success.

    Args:
        answer: The answer.
        url: What was asked.
        subject: What was asked for.
        conditional: Whether the request was to write only where nothing is.

    Raises:
        SinkUnavailableError: The same again later.
        SinkMisconfiguredError: Somebody must mend something.
        ObjectExistsError: To a conditional request.
        ObjectMissingError: No such object.
        UploadGoneError: No such upload, or the store has other parts of it.
        NoConditionError: It does not know conditions.
    """
    error = parse_error(answer)
    status = answer.status
    said = f"{origin(url)} answered {status}" + (f": {error}" if str(error) else "")
    if status < 300:  # noqa: PLR2004 - success
        # Complete answers 200 at once, and says at the end what became of it (S3 API reference).
        if error.code:
            raise SinkUnavailableError(said)
        if answer.is_web_page:
            text = f"{origin(url)} answers with a web page and is no object store: mend endpoint"
            raise SinkMisconfiguredError(text)
        return
    _missing(error, status, said, subject)
    if conditional:
        _condition(error, status, said)
    if _passes(error, status):
        raise SinkUnavailableError(said, retry_after_s=_retry_after_s(answer))
    raise _held(error, status, said)


def _missing(error: StoreError, status: int, said: str, subject: Subject) -> None:
    """Raise that there is nothing, where that is an answer; not so for a missing bucket."""
    gone = status == _NOT_FOUND and error.code in {"NoSuchKey", "NotFound", ""}
    if error.code in _NO_UPLOAD or (gone and subject == "upload"):
        raise UploadGoneError(said)
    if gone and subject == "object":
        raise ObjectMissingError(said)


def _condition(error: StoreError, status: int, said: str) -> None:
    """Raise what the condition alone can be answered with."""
    if status in _EXISTS:
        raise ObjectExistsError(said)
    if status == _NOT_IMPLEMENTED or (status == _BAD_REQUEST and error.code in _NO_CONDITION):
        raise NoConditionError(f"{said}; set conditional_writes: auto")


def _passes(error: StoreError, status: int) -> bool:
    """Whether it is trouble of the moment."""
    if error.code in _LATER or error.code in _WORDS:
        return error.code in _LATER
    return status in _LATER_STATUSES or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED)


def _held(error: StoreError, status: int, said: str) -> SinkMisconfiguredError:
    if error.code in _SKEWED:
        # Not simply later: only a clock that is set right helps, and nobody would look at it.
        return SinkMisconfiguredError(f"{said}; the clock of this machine or of the store is wrong")
    if error.code in _EXPIRED:
        text = f"{said}; the credentials have expired: renew them where they come from"
        return SinkMisconfiguredError(text, credentials=True)
    if status in _REDIRECTS or error.code in _ELSEWHERE:
        where = f"set region: {error.region}" if error.region else "mend region or endpoint"
        return SinkMisconfiguredError(f"{said}; the bucket is elsewhere: {where}")
    refused = status in _REFUSED and error.code not in _NO_ROOM
    words = _WORDS.get(error.code) or _STATUS_WORDS.get(status)
    if words is None and not error.code and status == _BAD_REQUEST:
        # Of a HEAD that is refused there is never more than the status.
        words, refused = _NO_REASON, True
    refused |= error.code in _UNKNOWN_KEY
    return SinkMisconfiguredError(f"{said}; {words or 'mend the settings'}", credentials=refused)


def _retry_after_s(answer: Answer) -> float | None:
    wish_ms = answer.headers.get("x-amz-retry-after", "")
    if wish_ms.isascii() and wish_ms.isdigit():
        return int(wish_ms[:9]) / 1000
    return answer.retry_after_s
