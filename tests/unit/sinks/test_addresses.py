"""Addresses are judged by their text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.addresses import (
    is_header_text,
    is_link_local,
    is_loopback,
    is_plaintext_remote,
    split_url,
)


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0"),
        *("::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "fd00:ec2::254"),
    ],
)
def test_addresses_of_metadata_services_are_known(host: str) -> None:
    assert is_link_local(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "fd00::1", "metadata", "", "2852039166"])
def test_others_are_not(host: str) -> None:
    assert not is_link_local(host)


@pytest.mark.parametrize(
    "host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
)
def test_this_machine_is_known(host: str) -> None:
    assert is_loopback(host)
    shown = f"[{host}]" if ":" in host else host
    assert not is_plaintext_remote(f"http://{shown}:1/x")


@pytest.mark.parametrize("host", ["localhost.example", "10.0.0.1", "::2", "0.0.0.0", ""])
def test_other_machines_are_not_this_one(host: str) -> None:
    assert not is_loopback(host)
    shown = f"[{host}]" if ":" in host else host
    assert is_plaintext_remote(f"http://{shown}:1/x")
    assert not is_plaintext_remote(f"https://{shown}:1/x")


@pytest.mark.parametrize(
    "url",
    [
        *("", "h", "//h", "ftp://h", "http://", "http:///p", "http://:80", "http://h:0"),
        *("http://h:65536", "http://h:x", "http://[::1", "http://h /", "http://h\n/", "http://é/"),
        "http://h/\tx",
    ],
)
def test_what_is_no_address_has_no_parts(url: str) -> None:
    assert split_url(url) is None


def test_an_address_has_parts() -> None:
    url = split_url("https://h.example:4318/p?q=1")
    assert url is not None
    assert (url.hostname, url.port, url.path, url.query) == ("h.example", 4318, "/p", "q=1")
    assert split_url("grpc://h", schemes=("grpc",)) is not None


@given(st.text())
def test_nothing_written_breaks_it(text: str) -> None:
    for judge in (split_url, is_link_local, is_loopback, is_header_text):
        judge(text)


@pytest.mark.parametrize("value", ["", "a b", "a\r\nb", "é", "a\0"])
def test_a_header_value_is_printable_ascii_without_spaces(value: str) -> None:
    assert not is_header_text(value)
    assert is_header_text("Ab-1~!")
