"""Base URLs and credentials."""

from __future__ import annotations

import pytest

from forwarder.errors import CredentialsRefusedError
from forwarder.source.endpoint import auth_headers, parse_endpoint


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.example.com", ("https://api.example.com", "api.example.com", 443, "")),
        ("https://api.example.com/", ("https://api.example.com", "api.example.com", 443, "")),
        ("https://a.b:8443/x/y/", ("https://a.b:8443/x/y", "a.b", 8443, "/x/y")),
        ("http://localhost:80", ("http://localhost:80", "localhost", 80, "")),
        ("http://127.9.9.9", ("http://127.9.9.9", "127.9.9.9", 80, "")),
        ("http://[::1]:9", ("http://[::1]:9", "::1", 9, "")),
    ],
)
def test_a_base_url_is_taken_apart(base_url: str, expected: tuple[str, str, int, str]) -> None:
    found = parse_endpoint(base_url, allow_plaintext=False)
    assert (found.url, found.host, found.port, found.path) == expected
    assert found.secure == base_url.startswith("https")


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.example.com",
        "ftp://api.example.com",
        "https://",
        "https://user:CANARY@api.example.com",
        "https://CANARY@api.example.com",
        "https://api.example.com?key=CANARY",
        "https://api.example.com#CANARY",
        "https://api.example.com:99999",
        "https://[::1",
        f"https://{'x' * 70}.example.com",
        "http://api.example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
    ],
)
def test_an_unusable_base_url_is_refused_and_no_secret_is_shown(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"base URL|in the clear") as caught:
        parse_endpoint(base_url, allow_plaintext=False)
    assert "CANARY" not in str(caught.value)


def test_plaintext_to_another_machine_can_be_allowed() -> None:
    assert not parse_endpoint("http://10.0.0.1", allow_plaintext=True).secure


def test_usable_credentials_pass() -> None:
    assert auth_headers(lambda: {"Authorization": "Bearer x"}) == {"Authorization": "Bearer x"}
    assert auth_headers(dict) == {}


@pytest.mark.parametrize("value", ["", " ", "CANARY\n", "CANARY\r\nX: y", "CANARY\x00", "CANARYé"])
def test_credentials_that_a_header_cannot_carry_are_refused_unseen(value: str) -> None:
    with pytest.raises(CredentialsRefusedError, match="x-key") as caught:
        auth_headers(lambda: {"x-key": value})
    assert "CANARY" not in str(caught.value)


def test_credentials_that_cannot_be_decoded_are_refused_unseen() -> None:
    def broken() -> dict[str, str]:
        raise ValueError("CANARY")

    with pytest.raises(CredentialsRefusedError) as caught:
        auth_headers(broken)
    assert "CANARY" not in str(caught.value)
    assert caught.value.__cause__ is None
