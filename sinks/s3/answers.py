"""What stores answer, and what that means to the engine. Pure.

No store ever makes lines be dropped: what it will not take holds the sink, with words that say what
to mend (the table in sinks.md 2.0 of the protocol notes; codes from the S3 API reference, "Error
responses"). Of an answer only its code, its message and its request's name are shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
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


class NoConditionError(Exception):
    """The store does not know how to write only where nothing is."""


@dataclass(frozen=True, slots=True)
class StoreError:
    """What an error answer says.

    Attributes:
        code: Such as `SlowDown`; empty when there was no body, or another one than S3's.
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
_WORDS = {
    "AccessDenied": "the credentials are good, but may not do this: see the policy in the"
    " documentation of the sink",
    "AllAccessDisabled": "the bucket is disabled",
    "InvalidAccessKeyId": "the store does not know this access key: mend access_key_id",
    "SignatureDoesNotMatch": "the secret key is wrong, or the region or endpoint is another"
    " store's: mend secret_access_key",
    "NoSuchBucket": "there is no such bucket: create it, or mend bucket, endpoint or region",
    "EntityTooLarge": "the store does not take objects of this size: lower window.max_size or"
    " multipart_above",
    "InvalidStorageClass": "the store does not know this storage_class",
    "KMS.DisabledException": "the key for encryption is disabled",
    "KMS.NotFoundException": "there is no such key: mend encryption.kms_key_id",
    "InsufficientStorage": "the store is full",
    "QuotaExceeded": "the store's quota is used up",
    "XMinioStorageFull": "the store is full",
}
_FORBIDDEN, _UNAUTHORIZED = 403, 401
_NOT_FOUND, _CONFLICT, _PRECONDITION, _NOT_IMPLEMENTED = 404, 409, 412, 501
_LATER_STATUSES = frozenset({408, 425, 429, _CONFLICT})
_MAX_CODE = 64
_TAG = re.compile(r"\{[^}]*\}")


def parse_xml(body: bytes) -> ET.Element | None:
    """An answer's body without its name spaces; None when it is none.

    Documents with a type of their own are refused: S3 has none, and entities can grow without end.
    """
    if b"<!" in body:
        return None
    try:
        root = ET.fromstring(body)  # noqa: S314 - bounded, and without declarations
    except ET.ParseError:
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
    code = printable(root.findtext("Code") or "")[:_MAX_CODE]
    message = printable(root.findtext("Message") or "")
    return StoreError(code, message, printable(root.findtext("Region") or "") or region, request_id)


def check_answer(answer: Answer, *, url: str, conditional: bool = False) -> None:
    """Return when it is a success.

    Args:
        answer: The answer.
        url: What was asked.
        conditional: Whether the request was to write only where nothing is.

    Raises:
        SinkUnavailableError: The same again later.
        SinkMisconfiguredError: Somebody must mend something.
        ObjectExistsError: 412, to a conditional request.
        ObjectMissingError: No such key.
        UploadGoneError: No such upload.
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
    _particular(error, status, said, conditional=conditional)
    if (
        error.code in _LATER
        or status in _LATER_STATUSES
        or (
            status >= 500 and status != _NOT_IMPLEMENTED and error.code not in _WORDS  # noqa: PLR2004
        )
    ):
        raise SinkUnavailableError(said, retry_after_s=_retry_after_s(answer))
    raise _held(error, status, said)


def _particular(error: StoreError, status: int, said: str, *, conditional: bool) -> None:
    """Raise what only some requests can be answered with."""
    if status == _PRECONDITION and conditional:
        raise ObjectExistsError(said)
    if error.code == "NoSuchUpload":
        raise UploadGoneError(said)
    if status == _NOT_FOUND and error.code in {"NoSuchKey", ""}:
        raise ObjectMissingError(said)
    unknown = status == _NOT_IMPLEMENTED or (
        status == 400 and error.code in {"NotImplemented", "InvalidArgument", "InvalidRequest"}  # noqa: PLR2004
    )
    if conditional and unknown:
        raise NoConditionError(said)


def _held(error: StoreError, status: int, said: str) -> SinkMisconfiguredError:
    if error.code in _SKEWED:
        return SinkMisconfiguredError(f"{said}; the clock of this machine or of the store is wrong")
    if error.code in _EXPIRED:
        text = f"{said}; the credentials have expired: renew them where they come from"
        return SinkMisconfiguredError(text, credentials=True)
    if status in {301, 302, 307, 308} or error.code in _ELSEWHERE:
        where = f"set region: {error.region}" if error.region else "mend region or endpoint"
        return SinkMisconfiguredError(f"{said}; the bucket is elsewhere: {where}")
    if status == _NOT_IMPLEMENTED or error.code == "NotImplemented":
        text = "the store cannot do this: see provider, conditional_writes, encryption and"
        return SinkMisconfiguredError(f"{said}; {text} storage_class")
    refused = status in {_FORBIDDEN, _UNAUTHORIZED}
    words = _WORDS.get(error.code)
    words = words or ("it refuses our credentials" if refused else "mend the settings")
    return SinkMisconfiguredError(f"{said}; {words}", credentials=refused)


def expired(error: SinkMisconfiguredError) -> bool:
    """Whether other credentials may help, and should be looked for."""
    return error.credentials


def _retry_after_s(answer: Answer) -> float | None:
    wish_ms = answer.headers.get("x-amz-retry-after", "")
    if wish_ms.isascii() and wish_ms.isdigit():
        return int(wish_ms[:9]) / 1000
    return answer.retry_after_s
