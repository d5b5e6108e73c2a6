"""What stores answer, and what that means: nothing of it ever makes lines be dropped."""

from __future__ import annotations

import pytest

from sinks.answers import Answer
from sinks.interface import SinkError, SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.answers import (
    NoConditionError,
    ObjectExistsError,
    ObjectMissingError,
    UploadGoneError,
    check_answer,
    parse_error,
    parse_xml,
)

_URL = "https://s3.example.com/bucket/secret-path/key?uploadId=secret"


def _answer(status: int, code: str = "", more: str = "", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>Because</Message>{more}</Error>" if code else ""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, body.encode())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "RequestTimeout"),
        (400, "BadDigest"),
        (400, "XAmzContentSHA256Mismatch"),
        (400, "IncompleteBody"),
        (400, "ThrottlingException"),
        (408, ""),
        (409, "ConditionalRequestConflict"),
        (409, "OperationAborted"),
        (429, ""),
        (500, "InternalError"),
        (500, ""),
        (502, ""),
        (503, "SlowDown"),
        (503, ""),
        (504, ""),
        (200, "InternalError"),
        (200, "SlowDown"),
        (200, "AccessDenied"),
    ],
)
def test_trouble_of_the_moment_is_tried_again(status: int, code: str) -> None:
    with pytest.raises(SinkUnavailableError, match=str(status)):
        check_answer(_answer(status, code), url=_URL, conditional=True)


@pytest.mark.parametrize(
    ("status", "code", "words", "credentials"),
    [
        (403, "AccessDenied", "may not do this", True),
        (403, "InvalidAccessKeyId", "mend access_key_id", True),
        (403, "SignatureDoesNotMatch", "mend secret_access_key", True),
        (403, "RequestTimeTooSkewed", "the clock", False),
        (400, "RequestExpired", "the clock", False),
        (400, "ExpiredToken", "have expired", True),
        (400, "InvalidToken", "have expired", True),
        (403, "QuotaExceeded", "quota", False),
        (403, "", "refuses our credentials", True),
        (401, "", "refuses our credentials", True),
        (407, "", "proxy", True),
        (404, "NoSuchBucket", "there is no such bucket", False),
        (301, "PermanentRedirect", "elsewhere: mend region or endpoint", False),
        (307, "TemporaryRedirect", "elsewhere", False),
        (302, "", "elsewhere", False),
        (400, "EntityTooLarge", "lower window.max_size", False),
        (413, "", "lower window.max_size", False),
        (501, "NotImplemented", "the store cannot do this", False),
        (400, "NotImplemented", "the store cannot do this", False),
        (400, "InvalidStorageClass", "storage_class", False),
        (400, "KMS.NotFoundException", "kms_key_id", False),
        (507, "InsufficientStorage", "full", False),
        (400, "", "look at the credentials", True),
        (404, "XAdminUserNotFound", "mend access_key_id", True),
        (409, "ObjectParentIsFile", "mend key", False),
        (400, "KeyTooLongError", "mend key", False),
        (400, "InvalidArgument", "mend the settings", False),
        (412, "PreconditionFailed", "mend the settings", False),
        (405, "MethodNotAllowed", "mend the settings", False),
    ],
)
def test_what_must_be_mended_holds_and_says_what(
    status: int, code: str, words: str, credentials: bool
) -> None:
    with pytest.raises(SinkMisconfiguredError, match=words) as caught:
        check_answer(_answer(status, code), url=_URL)
    assert caught.value.credentials is credentials
    assert f"https://s3.example.com answered {status}" in str(caught.value)
    assert "secret-path" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        _answer(301, "PermanentRedirect", x_amz_bucket_region="eu-north-1"),
        _answer(301, x_amz_bucket_region="eu-north-1"),
        _answer(400, "AuthorizationHeaderMalformed", "<Region>eu-north-1</Region>"),
    ],
)
def test_a_store_that_names_the_right_region_is_repeated(answer: Answer) -> None:
    with pytest.raises(SinkMisconfiguredError, match="set region: eu-north-1"):
        check_answer(answer, url=_URL)


@pytest.mark.parametrize("status", [412, 304])
def test_a_condition_that_does_not_hold_says_that_the_object_exists(status: int) -> None:
    with pytest.raises(ObjectExistsError):
        check_answer(_answer(status, "PreconditionFailed"), url=_URL, conditional=True)


@pytest.mark.parametrize(
    ("status", "code"),
    [(501, "NotImplemented"), (501, ""), (400, "NotImplemented"), (400, "InvalidArgument")],
)
def test_a_store_that_does_not_know_the_condition_says_so(status: int, code: str) -> None:
    with pytest.raises(NoConditionError, match="conditional_writes") as caught:
        check_answer(_answer(status, code), url=_URL, conditional=True)
    assert isinstance(caught.value, SinkError), "whoever does not expect it holds"


def test_what_is_not_there_is_told_apart() -> None:
    for answer in (_answer(404), _answer(404, "NoSuchKey")):
        with pytest.raises(ObjectMissingError):
            check_answer(answer, url=_URL)
        with pytest.raises(UploadGoneError):
            check_answer(answer, url=_URL, subject="upload")
        with pytest.raises(SinkMisconfiguredError, match="mend endpoint"):
            check_answer(answer, url=_URL, subject="bucket")


@pytest.mark.parametrize(
    ("status", "code"), [(404, "NoSuchUpload"), (400, "InvalidPart"), (400, "InvalidPartOrder")]
)
def test_an_upload_that_cannot_be_completed_is_gone(status: int, code: str) -> None:
    with pytest.raises(UploadGoneError):
        check_answer(_answer(status, code), url=_URL, subject="upload")


def test_a_missing_bucket_is_no_missing_object() -> None:
    for subject in ("object", "upload", "bucket"):
        with pytest.raises(SinkMisconfiguredError, match="no such bucket"):
            check_answer(_answer(404, "NoSuchBucket"), url=_URL, subject=subject)


@pytest.mark.parametrize("body", [b"", b"\n ", b"<Result/>", b"{}", b"not xml", b"<a>"])
def test_a_success_is_one_whatever_it_says_besides(body: bytes) -> None:
    check_answer(Answer(200, {}, body), url=_URL)


@pytest.mark.parametrize(
    "body",
    [b"<Error/>", b"  \n <Error><Code>X</Code></Error>", b"<Error><Message>m</Message></Error>"],
)
def test_an_error_in_a_success_is_none(body: bytes) -> None:
    with pytest.raises(SinkUnavailableError, match="answered 200"):
        check_answer(Answer(200, {}, body), url=_URL)


def test_a_web_page_is_no_store() -> None:
    page = Answer(200, {"content-type": "text/html"}, b"<html>Please log in</html>")
    with pytest.raises(SinkMisconfiguredError, match="no object store"):
        check_answer(page, url=_URL)


@pytest.mark.parametrize(
    ("headers", "wish_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"x-amz-retry-after": "1500"}, 1.5),
        ({"x-amz-retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_the_store_may_say_when_to_come_again(
    headers: dict[str, str], wish_s: float | None
) -> None:
    with pytest.raises(SinkUnavailableError) as caught:
        check_answer(Answer(503, headers), url=_URL)
    assert caught.value.retry_after_s == wish_s


def test_of_an_error_only_code_message_and_request_are_shown() -> None:
    more = (
        "<StringToSign>AWS4 hidden</StringToSign><SignatureProvided>hidden</SignatureProvided>"
        "<AWSAccessKeyId>hidden</AWSAccessKeyId>"
    )
    answer = _answer(403, "SignatureDoesNotMatch", more, x_amz_request_id="R7")
    assert str(parse_error(answer)) == "SignatureDoesNotMatch: Because (request R7)"
    with pytest.raises(SinkMisconfiguredError) as caught:
        check_answer(answer, url=_URL)
    assert "hidden" not in str(caught.value)


def test_what_a_store_says_is_bounded_and_printable() -> None:
    long = "\N{ESCAPE}[2J" + "x" * 10_000
    body = f"<Error><Code>{'C' * 1000}</Code><Message>{long[4:]}</Message></Error>"
    with pytest.raises(SinkMisconfiguredError) as caught:
        check_answer(Answer(403, {"x-amz-request-id": long}, body.encode()), url=_URL)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE a [<!ENTITY b "c">]><Error><Code>&b;</Code></Error>',
        b"<Error><Code>half",
        b"\xff\xfe\x00",
        b"<Error>" * 20_000,
        '<!DOCTYPE a [<!ENTITY b "c">]><Error><Code>&b;</Code></Error>'.encode("utf-16"),
    ],
)
def test_what_is_no_proper_document_is_none(body: bytes) -> None:
    assert parse_xml(body) is None
    assert parse_error(Answer(500, {}, body)).code == ""


@pytest.mark.parametrize("encoding", ["klingon", "idna", "utf-16", "utf-8"])
def test_a_document_is_utf_8_whatever_it_claims(encoding: str) -> None:
    root = parse_xml(f'<?xml version="1.0" encoding="{encoding}"?><a>\u00fc</a>'.encode())
    assert root is not None
    assert root.text == "\u00fc"


def test_a_deep_document_is_taken_apart_without_end_of_the_stack() -> None:
    root = parse_xml(b"<Error>" * 100_000 + b"</Error>" * 100_000)
    assert root is not None
    assert root.tag == "Error"


def test_names_of_a_document_have_no_spaces_in_front() -> None:
    root = parse_xml(b'<a xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><b>c</b></a>')
    assert root is not None
    assert root.findtext("b") == "c"
