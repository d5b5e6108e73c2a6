"""Who we are to a store: credentials wherever they are, and signatures. The work is botocore's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sinks.answers import printable
from sinks.credentials import read_secret
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.s3.settings import S3Settings

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
        return _sign(credentials, self._region, method, url, headers, sha256)

    async def _credentials(self) -> Any:
        settings = self._settings
        if settings.access_key_id is not None:
            return await asyncio.to_thread(_given, settings)
        if self._found is None:
            self._found = await asyncio.to_thread(_look, settings)
        return await asyncio.to_thread(_frozen, self._found)


def _given(settings: S3Settings) -> Any:
    from botocore.credentials import ReadOnlyCredentials

    secret, token = settings.secret("secret_access_key"), settings.secret("session_token")
    assert secret is not None, "validated"
    return ReadOnlyCredentials(
        settings.access_key_id,
        read_secret(secret),
        None if token is None else read_secret(token),
    )


def _look(settings: S3Settings) -> Any:
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    session = Session(profile=settings.profile)
    if settings.credentials_file is not None:
        session.set_config_variable("credentials_file", str(settings.credentials_file))
        if not settings.credentials_file.is_file():
            text = f"credentials_file: {settings.credentials_file}: there is no such file"
            raise SinkMisconfiguredError(text, credentials=True)
    try:
        found = session.get_credentials()
    except BotoCoreError as error:
        raise _verdict(error) from error
    if found is None:
        raise SinkMisconfiguredError(_NONE_FOUND, credentials=True)
    return found


def _frozen(credentials: Any) -> Any:
    """As they are now; what expires soon is renewed first."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return credentials.get_frozen_credentials()
    except (BotoCoreError, ClientError) as error:
        raise _verdict(error) from error


def _verdict(error: Exception) -> SinkUnavailableError | SinkMisconfiguredError:
    from botocore.exceptions import HTTPClientError, MetadataRetrievalError

    why = printable(str(error))
    if isinstance(error, (HTTPClientError, MetadataRetrievalError)):
        return SinkUnavailableError(f"credentials cannot be had: {why}")
    return SinkMisconfiguredError(f"credentials cannot be had: {why}", credentials=True)


def _sign(
    credentials: Any, region: str, method: str, url: str, headers: Mapping[str, str], sha256: str
) -> dict[str, str]:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest

    class Auth(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
        def payload(self, _: AWSRequest) -> str:
            # Known already; botocore would read the whole body once more, or leave it out.
            return sha256

    request = AWSRequest(method, url, headers=dict(headers))
    Auth(credentials, "s3", region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}
