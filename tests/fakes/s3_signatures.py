"""Signatures of requests, verified by arithmetic of their own, as Amazon describes it.

docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tests.fakes.web_server import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fakes.web_server import Request

_UNRESERVED = "-_.~"


def error(status: int, code: str, message: str, more: str = "") -> Reply:
    """An error as S3 words it."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    headers = {"content-type": "application/xml", "x-amz-request-id": "REQUEST7"}
    return Reply(status, {**headers, "date": formatdate(usegmt=True)}, body.encode())


def verify(request: Request, keys: Mapping[str, str], region: str) -> Reply | None:
    """What is wrong with the request's signature; None when it is good."""
    given = dict(
        pair.strip().partition("=")[::2]
        for pair in request.headers.get("authorization", "").partition(" ")[2].split(",")
    )
    if "Credential" not in given:
        return error(403, "AccessDenied", "Access Denied")
    key_id, date, used_region, *_ = given["Credential"].split("/")
    if key_id not in keys:
        return error(403, "InvalidAccessKeyId", "The access key does not exist in our records")
    if used_region != region:
        wanted = f"<Region>{region}</Region>"
        return error(400, "AuthorizationHeaderMalformed", "The region is wrong", wanted)
    claimed = request.headers.get("x-amz-content-sha256", "")
    if claimed != hashlib.sha256(request.raw).hexdigest():
        return error(400, "XAmzContentSHA256Mismatch", "The provided hash does not match")
    signed = given["SignedHeaders"].split(";")
    must = {"host", *(name for name in request.headers if name.startswith("x-amz-"))}
    secret = keys[key_id]
    signature = _signature(request, signed, claimed, (secret, date, region))
    if not must <= set(signed) or not hmac.compare_digest(signature, given["Signature"]):
        return error(403, "SignatureDoesNotMatch", "The signature does not match")
    return None


def _signature(
    request: Request, signed: list[str], sha256: str, scope: tuple[str, str, str]
) -> str:
    parts = urlsplit(request.path)
    pairs = sorted(
        (quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED))
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    canonical = "\n".join(
        [
            request.method,
            quote(unquote(parts.path), safe=f"/{_UNRESERVED}"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed),
            "",
            ";".join(signed),
            sha256,
        ]
    )
    secret, date, region = scope
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    stamp = request.headers.get("x-amz-date", "")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{date}/{region}/s3/aws4_request\n{digest}"
    key = f"AWS4{secret}".encode()
    for piece in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, piece.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()
