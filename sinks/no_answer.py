"""What it means that a request got no answer. Pure."""

from __future__ import annotations

import ssl

import httpx

from sinks.answers import origin, printable
from sinks.interface import SinkError, SinkMisconfiguredError, SinkUnavailableError

#: What alerts say when it is our certificate that is refused or missed.
_ABOUT_US = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})

#: OpenSSL's X509_V_ERR_* codes with an advice of their own.
_ADVICE = {
    9: "the clock of one of the two machines is wrong",
    10: "it has to be renewed there",
    62: "the address in the configuration has another name than the certificate",
    64: "the address in the configuration has another number than the certificate",
}


def no_answer(error: Exception, url: str) -> SinkError:
    """What it means that a request got no answer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and (found := _tls_verdict(cause, url)) is not None:
            return found
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return SinkUnavailableError(f"{origin(url)} does not answer in time")
    if isinstance(
        error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError)
    ):
        # Their messages may repeat what we wanted to send.
        text = f"{origin(url)} cannot be asked: the address or a header is not possible in HTTP"
        return SinkMisconfiguredError(text)
    why = printable(str(error)) or type(error).__name__
    if isinstance(error, httpx.ProxyError):
        return SinkUnavailableError(f"the proxy of the environment refuses {origin(url)}: {why}")
    return SinkUnavailableError(f"{origin(url)} does not answer: {why}")


def _tls_verdict(error: ssl.SSLError, url: str) -> SinkError | None:
    """What somebody has to mend; None for a connection that merely broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        unknown = "set tls.ca_file to its authority's certificate"
        advice = _ADVICE.get(error.verify_code, unknown)
        why = printable(error.verify_message).rstrip(".")
        return SinkMisconfiguredError(
            f"the certificate of {origin(url)} does not verify: {why}; {advice}"
        )
    reason = error.reason or ""
    if "ALERT" in reason and any(about in reason for about in _ABOUT_US):
        why = reason.lower().replace("_", " ")
        text = f"{origin(url)} wants another certificate of ours ({why}): see tls.cert_file"
        return SinkMisconfiguredError(text, credentials=True)
    if reason in _NO_TLS:
        return SinkMisconfiguredError(f"{origin(url)} does not speak TLS: mend the address")
    return None
