"""Signatures, checked by a server with arithmetic of its own, and where credentials come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sinks.interface import SinkMisconfiguredError, SinkUnavailableError
from sinks.s3.signing import Signer
from tests.fakes.s3_server import S3Server
from tests.fakes.s3_store import ACCESS_KEY, SECRET_KEY, file_part, settings_for, store_for
from tests.fakes.web_server import Reply, WebServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sinks.s3.body import FilePart
    from sinks.s3.store import ObjectStore

_KEYS = {ACCESS_KEY: SECRET_KEY}


async def _put(store: ObjectStore, key: str, body: bytes | FilePart) -> None:
    metadata = {"window": "w-1"}
    await store.put(key, body, media_type="text/plain", metadata=metadata, create_only=False)


@pytest.fixture(autouse=True)
def _no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.mark.parametrize(
    "key",
    ["logs/dt=2026-11-23/hour=13/a.ndjson.zst", "a//b c+d~e'()*!", "50%/%41", "grüße/日", "/a?#&"],
)
async def test_a_signature_holds_for_every_key_and_request(key: str, tmp_path: Path) -> None:
    async with S3Server(keys=_KEYS) as server, store_for(server.url) as store:
        body = file_part(tmp_path / "f", b"0123456789", 2, 5)
        await _put(store, key, body)
        assert server.bucket.objects[key].body == b"23456"
        found = await store.head(key)
        assert found is not None
        assert found.size_bytes == 5
        assert b"".join([piece async for piece in store.read(key)]) == b"23456"
        assert [one.key async for one in store.list(key)] == [key]
        upload = await store.begin_multipart(key, media_type="text/plain", metadata={})
        assert await store.uploads(key) == [(key, upload)]
        etag = await store.put_part(key, upload, 1, body)
        await store.complete_multipart(key, upload, [etag], create_only=False)
        await store.delete(key)
    assert server.bucket.objects == {}


async def test_a_body_that_was_damaged_on_its_way_is_not_taken(tmp_path: Path) -> None:
    async with S3Server(keys=_KEYS) as server, store_for(server.url) as store:
        body = file_part(tmp_path / "f", b"as it was")
        body.path.write_bytes(b"as it is!")
        with pytest.raises(SinkUnavailableError, match="XAmzContentSHA256Mismatch"):
            await _put(store, "k", body)
    assert server.bucket.objects == {}


async def test_nothing_is_sent_that_compatible_stores_refuse() -> None:
    async with S3Server(keys=_KEYS) as server, store_for(server.url) as store:
        await _put(store, "k", b"body")
    sent = server.requests[0].headers
    assert sorted(sent) == [
        *("accept", "accept-encoding", "authorization", "connection", "content-length"),
        *("content-type", "host", "user-agent"),
        *("x-amz-content-sha256", "x-amz-date", "x-amz-meta-window"),
    ]
    assert sent["content-length"] == "4"


async def test_another_region_is_told_by_its_name() -> None:
    async with S3Server(keys=_KEYS) as server, store_for(server.url, region="eu-west-1") as store:
        with pytest.raises(SinkMisconfiguredError, match="set region: us-east-1"):
            await _put(store, "k", b"body")


@pytest.mark.parametrize(
    ("key", "secret", "words"),
    [("AKIAOTHER", SECRET_KEY, "access_key_id"), (ACCESS_KEY, "x" * 8, "secret_access_key")],
)
async def test_wrong_credentials_are_told_apart(key: str, secret: str, words: str) -> None:
    ours = {"access_key_id": key, "secret_access_key": secret}
    async with S3Server(keys=_KEYS) as server, store_for(server.url, **ours) as store:
        with pytest.raises(SinkMisconfiguredError, match=f"mend {words}") as caught:
            await _put(store, "k", b"body")
    assert caught.value.credentials


async def test_a_secret_in_a_file_is_read_at_every_request(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("wrong\n")
    ours = {"access_key_id": ACCESS_KEY, "secret_access_key_file": str(file)}
    async with S3Server(keys=_KEYS) as server, store_for(server.url, **ours) as store:
        with pytest.raises(SinkMisconfiguredError, match="SignatureDoesNotMatch"):
            await _put(store, "k", b"body")
        file.write_text(f"{SECRET_KEY}\n")
        assert await store.head("k") is None
        file.unlink()
        with pytest.raises(SinkMisconfiguredError, match="secret_access_key_file") as caught:
            await store.head("k")
    assert caught.value.credentials


@pytest.mark.parametrize("content", ["two\nlines", "gr\u00fc\u00dfe", ""])
async def test_a_token_that_cannot_be_sent_is_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    ours = {"access_key_id": "A", "secret_access_key": "secret-12"}
    settings = settings_for("http://127.0.0.1:9", session_token_file=str(file), **ours)
    with pytest.raises(SinkMisconfiguredError, match="session_token_file") as caught:
        await Signer(settings, "r").signed("GET", "http://127.0.0.1:9/b/k", {}, "0" * 64)
    assert not content or content not in str(caught.value)


async def test_a_session_token_is_sent_and_signed() -> None:
    async with S3Server(keys=_KEYS) as server:
        ours = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
        async with store_for(server.url, session_token="token-7", **ours) as store:
            assert await store.head("k") is None
    sent = server.requests[0].headers
    assert sent["x-amz-security-token"] == "token-7"
    assert "x-amz-security-token" in sent["authorization"]


async def test_anonymous_requests_are_not_signed() -> None:
    async with S3Server() as server, store_for(server.url, anonymous=True) as store:
        await _put(store, "k", b"body")
    assert "authorization" not in server.requests[0].headers


def _profiles(path: Path, secret: str) -> None:
    path.write_text(f"[ours]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n")


async def test_a_profile_is_read_again_after_the_store_has_refused_it(tmp_path: Path) -> None:
    file = tmp_path / "profiles"
    _profiles(file, "expired")
    ours = {"credentials_file": str(file), "profile": "ours"}
    async with S3Server(keys=_KEYS) as server, store_for(server.url, **ours) as store:
        with pytest.raises(SinkMisconfiguredError, match="SignatureDoesNotMatch"):
            await _put(store, "k", b"body")
        _profiles(file, SECRET_KEY)
        await _put(store, "k", b"body")
        # What is good is not looked for again.
        file.unlink()
        assert await store.head("k") is not None


async def _delete(store: ObjectStore) -> None:
    await store.delete("k")


async def _head(store: ObjectStore) -> None:
    await store.head("k")


@pytest.mark.parametrize("ask", [_delete, _head], ids=["with words", "a HEAD has none"])
async def test_expired_credentials_are_looked_for_again(
    tmp_path: Path, ask: Callable[[ObjectStore], Awaitable[None]]
) -> None:
    file = tmp_path / "profiles"
    _profiles(file, SECRET_KEY)
    ours = {"credentials_file": str(file), "profile": "ours"}
    async with S3Server(keys=_KEYS) as server, store_for(server.url, **ours) as store:
        assert await store.head("k") is None
        server.fail("expired_token")
        file.unlink()
        with pytest.raises(SinkMisconfiguredError) as caught:
            await ask(store)
        assert caught.value.credentials
        with pytest.raises(SinkMisconfiguredError, match="there is no such file"):
            await store.head("k")


async def test_the_environment_is_looked_at_when_nothing_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    settings = settings_for("http://127.0.0.1:9", access_key_id=None)
    signed = await Signer(settings, "us-east-1").signed("GET", "http://127.0.0.1:9/b", {}, "0" * 64)
    assert f"Credential={ACCESS_KEY}/" in signed["authorization"]


async def test_no_credentials_anywhere_says_where_they_are_looked_for() -> None:
    settings = settings_for("http://127.0.0.1:9", access_key_id=None)
    with pytest.raises(SinkMisconfiguredError, match="anonymous: true") as caught:
        await Signer(settings, "r").signed("GET", "http://127.0.0.1:9/b", {}, "0" * 64)
    assert caught.value.credentials


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AWS_PROFILE": "nobody"}, "nobody"),
        ({"AWS_CONFIG_FILE": "{broken}"}, "config file"),
        (
            {"AWS_ROLE_ARN": "arn:aws:iam::1:role/x", "AWS_WEB_IDENTITY_TOKEN_FILE": "{missing}"},
            "No such file",
        ),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://elsewhere.example/"}, "Unsupported host"),
    ],
)
async def test_what_cannot_be_read_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    (tmp_path / "broken").write_text("no section\n")
    names = {"broken": tmp_path / "broken", "missing": tmp_path / "missing"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(**names))
    settings = settings_for("http://127.0.0.1:9", access_key_id=None)
    with pytest.raises(SinkMisconfiguredError, match=words) as caught:
        await Signer(settings, "r").signed("GET", "http://127.0.0.1:9/b", {}, "0" * 64)
    assert caught.value.credentials


async def test_a_service_with_credentials_that_does_not_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    good = (
        f'{{"AccessKeyId":"{ACCESS_KEY}","SecretAccessKey":"s","Token":"t",'
        '"Expiration":"2036-01-01T00:00:00Z"}'
    )
    async with WebServer(*[Reply(500)] * 3, default=Reply(body=good.encode())) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/creds")
        signer = Signer(settings_for(service.url, access_key_id=None), "r")
        url = "http://127.0.0.1:9/b"
        with pytest.raises((SinkUnavailableError, SinkMisconfiguredError), match="cannot be had"):
            await signer.signed("GET", url, {}, "0" * 64)
        signed = await signer.signed("GET", url, {}, "0" * 64)
    assert signed["x-amz-security-token"] == "t"


async def test_a_credentials_file_without_a_profile_counts_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the environment, too")
    file = tmp_path / "credentials"
    file.write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    async with (
        S3Server(keys=_KEYS) as server,
        store_for(server.url, credentials_file=str(file)) as store,
    ):
        await _put(store, "a", b"1")
    assert server.bucket.objects["a"].body == b"1"
