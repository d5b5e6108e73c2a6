"""Who we are to a server, who it has to be to us, and that nobody else gets to know it."""

from __future__ import annotations

import ssl
from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from sinks.interface import SinkMisconfiguredError
from sinks.network import HeaderFile, NetworkSettings
from sinks.settings import SecretSource, SecretUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.answers import Answer
    from sinks.server import ServerSettings, TlsSettings

#: Shorter pieces are words like `logs`, which answers may well contain.
_MIN_TOKEN_PIECE = 8
_MIN_ADDRESS_PIECE = 12

_CONCEALED = b"***"


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """How servers are verified, and what we show them.

    Raises:
        SinkMisconfiguredError: A file cannot be read, or holds no certificate or key.
    """
    what, expected = f"tls.ca_file: {settings.ca_file}", "expected certificates, PEM"
    try:
        cafile = None if settings.ca_file is None else str(settings.ca_file)
        context = ssl.create_default_context(cafile=cafile)
        if settings.cert_file is not None:
            what = f"tls.cert_file, tls.key_file: {settings.cert_file}"
            expected = "expected a certificate and its key, PEM, the key without a password"
            # Without a password given, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except OSError as error:  # ssl.SSLError is one
        why = expected if isinstance(error, ssl.SSLError) else error.strerror
        raise SinkMisconfiguredError(f"{what}: {why}", credentials=True) from None
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def secret_headers(settings: ServerSettings) -> dict[str, str]:
    """The operator's headers and credentials, names in lower case; files are read now.

    A protocol that signs each request has none.

    Raises:
        SinkMisconfiguredError: A file cannot be read, or what is in it is no header's value.
    """
    headers: dict[str, str] = {}
    if not isinstance(settings, NetworkSettings):
        return headers
    for name, value in settings.headers.items():
        in_file = isinstance(value, HeaderFile)
        key = f"headers.{name}.file" if in_file else f"headers.{name}"
        source = SecretSource(
            key,
            None if isinstance(value, HeaderFile) else value,
            value.file if isinstance(value, HeaderFile) else None,
        )
        headers[name.lower()] = _header_value(source)
    if (token := settings.secret("bearer_token")) is not None:
        headers["authorization"] = f"Bearer {_header_value(token)}"
    if (password := settings.secret("password")) is not None:
        pair = f"{settings.username}:{_one_line(password)}"
        headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return headers


def _header_value(source: SecretSource) -> str:
    value = _one_line(source).strip()
    # What an HTTP library refuses it refuses with a message that repeats the value.
    if not value.isascii():
        raise SinkMisconfiguredError(f"{source.key}: expected ASCII", credentials=True)
    return value


def _one_line(source: SecretSource) -> str:
    value = read_secret(source)
    if not value.isprintable():
        text = f"{source.key}: expected printable text on one line"
        raise SinkMisconfiguredError(text, credentials=True)
    return value


def read_secret(source: SecretSource) -> str:
    """A secret, its file read now.

    Raises:
        SinkMisconfiguredError: The file cannot be read.
    """
    try:
        return source.read()
    except SecretUnavailableError as error:
        raise SinkMisconfiguredError(str(error), credentials=True) from None


def concealed(answer: Answer, secrets: Iterable[str]) -> Answer:
    """The answer without what it repeats: many a server says which path or token it refuses."""
    pieces = {piece for secret in secrets for piece in telling_pieces(secret)}
    body = answer.body
    for piece in sorted(pieces, key=len, reverse=True):
        body = body.replace(piece.encode(), _CONCEALED)
    return replace(answer, body=body)


def telling_pieces(secret: str) -> list[str]:
    """What would give a header's value or an address away; a password inside base64 is among it."""
    url = urlsplit(secret)
    if url.scheme in {"http", "https"}:
        target = secret.partition(url.netloc)[2]
        values = [value for _, value in parse_qsl(url.query)]
        pieces = [target, url.query, *values, url.path, *url.path.split("/")]
        pieces += [unquote(piece) for piece in pieces]
        return [piece for piece in pieces if len(piece) >= _MIN_ADDRESS_PIECE]
    pieces = [secret, *secret.split(" ")]
    for piece in tuple(pieces):
        with suppress(ValueError):
            pair = b64decode(piece, validate=True).decode()
            pieces += [pair, pair.partition(":")[2]]
    return [piece for piece in pieces if len(piece) >= _MIN_TOKEN_PIECE]
