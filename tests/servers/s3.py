"""What S3 servers have in common: credentials, buckets, signed requests, the sink's settings."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar, Final

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from sinks.s3 import S3Settings
from tests.servers.process import Server, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import httpx

ACCESS_KEY_ID: Final = "test-access-key"
SECRET_ACCESS_KEY: Final = "test-secret-key"
REGION: Final = "us-east-1"


class S3Server(Server):
    """A store on loopback with path addressing, and a bucket that is there from the start.

    Attributes:
        endpoint: Base URL, without a bucket.
        virtual_domain: In virtual addressing a bucket's `Host` is its name, a dot, and this. Nobody
            resolves that: it has to be said to a connection that there is.
        bucket: The first bucket.
    """

    virtual_domain: ClassVar[str] = "127.0.0.1"
    bucket: Final = "archive"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """Where it keeps objects."""
        return self.directory / "data"

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        super().start()
        try:
            self.make_bucket(self.bucket)
        except BaseException:
            self.kill()
            raise

    def is_ready(self) -> bool:
        # Servers answer questions about their health before they know who may ask for more.
        return self.ask("GET", "/").is_success

    def make_bucket(self, name: str) -> str:
        """Make a bucket, unless it is there already; returns its name.

        Raises:
            httpx.HTTPStatusError: It refuses.
        """
        if self.ask("HEAD", f"/{name}").is_error:
            self.ask("PUT", f"/{name}").raise_for_status()
        return name

    def section(self, **more: Any) -> dict[str, Any]:
        """The configuration of a sink that writes here, into the first bucket if none is named."""
        return {
            "type": "s3",
            "endpoint": self.endpoint,
            "region": REGION,
            "bucket": self.bucket,
            "access_key_id": ACCESS_KEY_ID,
            "secret_access_key": SECRET_ACCESS_KEY,
            **more,
        }

    def settings(self, **more: Any) -> S3Settings:
        """The same as settings."""
        return S3Settings.model_validate(self.section(**more))

    def ask(
        self,
        method: str,
        target: str,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        signed_content: bytes | None = None,
    ) -> httpx.Response:
        """One signed request.

        Args:
            method: `GET` and so on.
            target: Path and query, encoded.
            content: The body.
            headers: More headers; a `host` among them takes the place of the endpoint's.
            signed_content: The body that the signature is for, when it is another one.
        """
        url = f"{self.endpoint}{target}"
        signed = content if signed_content is None else signed_content
        request = AWSRequest(method, url, data=signed, headers=dict(headers or {}))
        request.headers["x-amz-content-sha256"] = hashlib.sha256(signed).hexdigest()
        credentials = Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY)
        S3SigV4Auth(credentials, "s3", REGION).add_auth(request)
        return self.http.request(method, url, content=content, headers=dict(request.headers))
