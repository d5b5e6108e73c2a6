"""Requests to the server, with the API key that this protocol alone knows."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING

from sinks.credentials import concealed
from sinks.interface import SinkMisconfiguredError
from sinks.settings import SecretUnavailableError
from sinks.web import MAX_ANSWER_BYTES, Answer, WebClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.network import NetworkSettings

_API_KEY = re.compile(r"[A-Za-z0-9+/_-]+={0,2}|[!-9;-~]+:[!-9;-~]+")


class Connection:
    """A web client that logs in with an API key, where the settings have one."""

    def __init__(self, settings: NetworkSettings) -> None:
        self._settings = settings
        self._client = WebClient(settings)

    async def open(self) -> None:
        """Get ready; nothing is sent.

        Raises:
            SinkMisconfiguredError: A certificate or the API key cannot be used.
        """
        self._login()
        await self._client.open()

    async def close(self) -> None:
        """Close every connection; may be called again, and before `open`."""
        await self._client.close()

    async def request(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """Make a request and read its answer, whatever the status; see `WebClient.request`.

        Raises:
            SinkUnavailableError: No answer, or not in time.
            SinkMisconfiguredError: The certificate does not verify, or a secret cannot be used.
        """
        login = self._login()
        sent = {**(headers or {}), **login}
        answer = await self._client.request(
            method, url, body, sent, max_answer_bytes=max_answer_bytes
        )
        refused = answer.status >= 300  # noqa: PLR2004 - whatever is no success
        return concealed(answer, login.values()) if refused else answer

    def _login(self) -> dict[str, str]:
        """The header with the API key, if there is one; its file is read now."""
        source = self._settings.secret("api_key")
        if source is None:
            return {}
        try:
            key = source.read()
        except SecretUnavailableError as error:
            raise SinkMisconfiguredError(str(error), credentials=True) from None
        if not is_api_key(key):
            text = f"{source.key}: expected an API key, in base64 or as id:key"
            raise SinkMisconfiguredError(text, credentials=True)
        if ":" in key:
            key = b64encode(key.encode()).decode()
        return {"authorization": f"ApiKey {key}"}


def is_api_key(text: str) -> bool:
    """Whether this can be an API key, in base64 or as `id:key`."""
    return _API_KEY.fullmatch(text) is not None
