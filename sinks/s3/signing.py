"""Who we are to a store: credentials wherever they are, and signatures. The work is botocore's."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from sinks.addresses import is_header_text
from sinks.answers import printable
from sinks.credentials import read_secret
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from botocore.awsrequest import AWSRequest

    from sinks.s3.settings import S3Settings
    from sinks.settings import SecretSource

_NONE_FOUND = (
    "no credentials were found: set access_key_id and secret_access_key, profile or"
    " credentials_file; or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; or anonymous: true"
)


class Signer:
    """Signs requests (Signature Version 4).

    What is in the settings counts; secrets in files are read at every request. Otherwise botocore
    looks where the AWS tools look: the environment, shared files and profiles, web identity, and
    the services of containers and instances. What expires is renewed before it does.
    """

    def __init__(self, settings: S3Settings, region: str) -> None:
        """Looks for nothing before the first request."""
        self._settings = settings
        self._region = region
        self._found: Any = None

    def forget(self) -> None:
        """Look again at the next request: the store says that these credentials are over."""
        self._found = None

    async def signed(
        self, method: str, url: str, headers: Mapping[str, str], sha256: str
    ) -> dict[str, str]:
        """These headers and the signature's; all of them are signed.

        Args:
            method: Of the request.
            url: Encoded as it is sent.
            headers: Those that matter to the store.
            sha256: Of the body, hexadecimal.

        Raises:
            SinkUnavailableError: A service that has our credentials does not answer.
            SinkMisconfiguredError: There are none, or they cannot be read.
        """
        if self._settings.anonymous:
            return {**headers, "x-amz-content-sha256": sha256}
        credentials = await self._credentials()
        return await asyncio.to_thread(
            _sign, credentials, self._region, method, url, headers, sha256
        )

    async def _credentials(self) -> Any:
        settings = self._settings
        if settings.access_key_id is not None:
            return await asyncio.to_thread(_given, settings)
        if self._found is None:
            self._found = await asyncio.to_thread(_look, settings)
        return await asyncio.to_thread(_frozen, self._found)


def telling_values(signed: Mapping[str, str]) -> list[str]:
    """What of a signed request's headers no message may hold."""
    token, signature = signed.get("x-amz-security-token"), signed.get("authorization", "")
    return [value for value in (token, signature.rpartition("Signature=")[2]) if value]


def _given(settings: S3Settings) -> Any:
    from botocore.credentials import ReadOnlyCredentials

    secret, token = settings.secret("secret_access_key"), settings.secret("session_token")
    assert secret is not None, "validated"
    key = read_secret(secret).strip()
    if not key.isprintable():
        text = f"{secret.key}: expected printable text on one line"
        raise SinkMisconfiguredError(text, credentials=True)
    return ReadOnlyCredentials(
        settings.access_key_id, key, None if token is None else _header_value(token)
    )


def _header_value(source: SecretSource) -> str:
    value = read_secret(source).strip()
    if not is_header_text(value):
        text = f"{source.key}: expected one word of printable ASCII"
        raise SinkMisconfiguredError(text, credentials=True)
    return value


def _look(settings: S3Settings) -> Any:
    from botocore.session import Session

    file = settings.credentials_file
    if file is not None and not file.is_file():
        text = f"credentials_file: {file}: there is no such file"
        raise SinkMisconfiguredError(text, credentials=True)
    with _translated():
        # A profile that is named counts before the environment, and a file is a place of profiles.
        named = settings.profile or ("default" if file is not None else None)
        session = Session(profile=named)
        if file is not None:
            session.set_config_variable("credentials_file", str(file))
        found = session.get_credentials()
    if found is None:
        raise SinkMisconfiguredError(_NONE_FOUND, credentials=True)
    return found


def _frozen(credentials: Any) -> Any:
    """As they are now; what expires soon is renewed first."""
    with _translated():
        return credentials.get_frozen_credentials()


@contextmanager
def _translated() -> Iterator[None]:
    """Where botocore's errors end; those of files and commands that it reads come as they are."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        MetadataRetrievalError,
    )
    from botocore.exceptions import ConnectionError as NotConnectedError

    try:
        yield
    except (HTTPClientError, NotConnectedError, MetadataRetrievalError) as error:
        text = f"credentials cannot be had: {printable(str(error))}"
        raise SinkUnavailableError(text) from error
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        text = f"credentials cannot be had: {printable(str(error))}"
        raise SinkMisconfiguredError(text, credentials=True) from error


@cache
def _auth() -> Any:
    """How requests are signed; importing it takes its time."""
    from botocore.auth import S3SigV4Auth

    class Auth(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
        def payload(self, request: AWSRequest) -> str:
            # Known already; botocore would read the whole body once more, or leave it out.
            return str(request.context["sha256"])

    return Auth


def _sign(
    credentials: Any, region: str, method: str, url: str, headers: Mapping[str, str], sha256: str
) -> dict[str, str]:
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method, url, headers=dict(headers))
    request.context["sha256"] = sha256
    _auth()(credentials, "s3", region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}
