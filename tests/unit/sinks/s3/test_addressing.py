"""Addresses of buckets and keys: what is sent, byte for byte, is what is signed."""

from __future__ import annotations

import httpx
import pytest

from sinks.interface import SinkMisconfiguredError
from sinks.s3.addressing import Bucket, query_text


@pytest.mark.parametrize(
    ("endpoint", "addressing", "url"),
    [
        (
            "https://s3.eu-west-1.amazonaws.com",
            "virtual",
            "https://logs.s3.eu-west-1.amazonaws.com/",
        ),
        ("https://s3.eu-west-1.amazonaws.com", "path", "https://s3.eu-west-1.amazonaws.com/logs/"),
        ("https://cwobject.com/", "virtual", "https://logs.cwobject.com/"),
        ("http://127.0.0.1:9000", "path", "http://127.0.0.1:9000/logs/"),
        ("http://localhost:9000/", "virtual", "http://logs.localhost:9000/"),
        ("https://proxy.example/s3/", "path", "https://proxy.example/s3/logs/"),
        ("https://proxy.example/s3", "virtual", "https://logs.proxy.example/s3/"),
        ("http://[::1]:9000", "path", "http://[::1]:9000/logs/"),
    ],
)
def test_the_bucket_is_part_of_the_host_or_of_the_path(
    endpoint: str, addressing: str, url: str
) -> None:
    bucket = Bucket(endpoint, "logs", addressing)  # type: ignore[arg-type]  # from a table
    assert bucket.url == url
    assert bucket.of("a/b") == f"{url}a/b"
    assert bucket.of("", {"uploads": ""}) == f"{url}?uploads="


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("logs/dt=2026-11-23/hour=13/a.ndjson.zst", "logs/dt%3D2026-11-23/hour%3D13/a.ndjson.zst"),
        ("a b+c", "a%20b%2Bc"),
        ("a~b-c_d.e", "a~b-c_d.e"),
        ("50%", "50%25"),
        ("%41", "%2541"),
        ("grüße/日", "gr%C3%BC%C3%9Fe/%E6%97%A5"),
        ("a//b", "a//b"),
        ("/a", "/a"),
        ("a/.hidden/..b/c..", "a/.hidden/..b/c.."),
        ("who?#&!*'()", "who%3F%23%26%21%2A%27%28%29"),
        ("_manifests/x", "_manifests/x"),
    ],
)
def test_a_key_is_encoded_once_and_sent_as_it_is_signed(key: str, sent: str) -> None:
    url = Bucket("http://127.0.0.1:9000", "b", "path").of(key)
    assert url == f"http://127.0.0.1:9000/b/{sent}"
    # The client sends these very bytes.
    assert httpx.URL(url).raw_path.decode() == f"/b/{sent}"


@pytest.mark.parametrize("key", ["..", "a/../b", "./a", "a/.", "../other-bucket/key"])
def test_a_key_that_would_lead_elsewhere_is_refused(key: str) -> None:
    with pytest.raises(SinkMisconfiguredError, match="dots"):
        Bucket("http://127.0.0.1:9000", "b", "path").of(key)


def test_a_query_is_in_the_order_in_which_it_is_signed() -> None:
    query = {"uploadId": "a+/= ", "partNumber": "7", "list-type": "2"}
    assert query_text(query) == "?list-type=2&partNumber=7&uploadId=a%2B%2F%3D%20"
    assert query_text({}) == query_text(None) == ""
    url = f"http://127.0.0.1/b/k{query_text(query)}"
    assert (
        httpx.URL(url).raw_path.decode() == "/b/k?list-type=2&partNumber=7&uploadId=a%2B%2F%3D%20"
    )
