"""The border between HTTP libraries and our errors."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp.http_exceptions
import httpx
import pytest
import yarl
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy

from forwarder.errors import SourceUnavailableError
from forwarder.source.transport import _new_socket, foreign_errors

if TYPE_CHECKING:
    from types import ModuleType

#: Errors of the program, not of the surroundings, or never raised by a client like ours.
OURS = {
    httpx.CookieConflict,  # no cookies are kept
    httpx.HTTPStatusError,  # only raise_for_status raises it
    aiohttp.WSMessageTypeError,  # no web sockets
}


URL = yarl.URL("https://api.example.com")
REQUEST = aiohttp.RequestInfo(URL, "POST", CIMultiDictProxy(CIMultiDict()), URL)


def exceptions_of(module: ModuleType) -> set[type[Exception]]:
    return {
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__.split(".")[0] in {"httpx", "aiohttp"}
    }


def make(kind: type[Exception]) -> Exception:
    """An instance; the odd ones need what they were made for."""
    key = ConnectionKey(
        "h", 1, is_ssl=False, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
    )
    makers: list[tuple[Any, ...]] = [
        ("as tested",),
        (),
        (key, OSError(1, "as tested")),
        (key, ssl.CertificateError("as tested")),
        ("/socket", key, OSError(1, "as tested")),
        (b"expected", b"got", "h", 1),
        (REQUEST, ()),
        ("line", "10", "11"),
    ]
    for arguments in makers:
        try:
            error = kind(*arguments)
            str(error)
        except (TypeError, AttributeError):
            continue
        return error
    raise AssertionError(f"no way known to make {kind}")


FOREIGN = sorted(
    {
        *exceptions_of(httpx),
        *exceptions_of(aiohttp.client_exceptions),
        *exceptions_of(aiohttp.http_exceptions),
        aiohttp.EofStream,
    }
    - OURS,
    key=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
SYSTEM = [
    OSError,
    ConnectionResetError,
    BrokenPipeError,
    TimeoutError,
    socket.gaierror,
    ssl.SSLError,
    ssl.SSLCertVerificationError,
    EOFError,
]


def test_the_libraries_still_have_their_exceptions_where_we_look() -> None:
    assert {httpx.ReadError, aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError} <= set(
        FOREIGN
    )
    assert len(FOREIGN) > 40, FOREIGN


@pytest.mark.parametrize("kind", [*FOREIGN, *SYSTEM])
def test_every_foreign_exception_is_an_outage(kind: type[Exception]) -> None:
    original = make(kind)
    with pytest.raises(SourceUnavailableError) as caught, foreign_errors("GetSandbox"):
        raise original
    assert caught.value.code == "connection"
    assert caught.value.__cause__ is original
    assert str(caught.value).startswith("GetSandbox failed: ")


def test_a_wrapped_cause_is_the_one_named() -> None:
    wrapped = httpx.ConnectTimeout("misleading")
    wrapped.__cause__ = aiohttp.ServerDisconnectedError()
    with (
        pytest.raises(SourceUnavailableError, match="ServerDisconnectedError"),
        foreign_errors("GetSandbox"),
    ):
        raise wrapped


def connector_key(host: str) -> ConnectionKey:
    return ConnectionKey(
        host, 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
    )


@pytest.mark.parametrize(
    ("host", "cause", "expected"),
    [
        (
            "127.0.0.1",
            OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 443)"),
            "cannot connect to 127.0.0.1:443: connection refused",
        ),
        (
            "::1",
            OSError(errno.EHOSTUNREACH, "Connect call failed"),
            "cannot connect to [::1]:443: no route to host",
        ),
        (
            "api.invalid",
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "cannot connect to api.invalid:443: name or service not known",
        ),
        (
            "h",
            OSError("Multiple exceptions: a\nb"),
            "cannot connect to h:443: Multiple exceptions:",
        ),
        ("h", ssl.SSLError(1, "wrong version number"), "wrong version number"),
    ],
)
def test_a_connection_that_cannot_be_made_is_told_in_words(
    host: str, cause: OSError, expected: str
) -> None:
    with pytest.raises(SourceUnavailableError) as caught, foreign_errors("GetSandbox"):
        raise aiohttp.ClientConnectorError(connector_key(host), cause)
    text = str(caught.value)
    assert expected in text
    assert "\n" not in text
    assert "ssl:" not in text


def test_a_certificate_that_is_not_trusted_is_told_with_its_reason() -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
    with (
        pytest.raises(SourceUnavailableError, match=r"h:443: .*self-signed certificate"),
        foreign_errors("GetSandbox"),
    ):
        raise aiohttp.ClientConnectorCertificateError(connector_key("h"), refused)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, ValueError, RuntimeError])
def test_cancellation_and_mistakes_of_the_program_pass(kind: type[BaseException]) -> None:
    with pytest.raises(kind), foreign_errors("GetSandbox"):
        raise kind


def test_a_socket_notices_a_peer_that_vanished() -> None:
    with _new_socket(
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::", 0))
    ) as new:
        assert new.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert new.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
        assert new.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40_000
