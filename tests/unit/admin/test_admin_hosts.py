from __future__ import annotations

import pytest

from forwarder.admin.hosts import host_allowed
from sinks.addresses import is_loopback


@pytest.mark.parametrize(
    "header",
    ["localhost", "localhost:9465", "LocalHost:1", "127.0.0.1", "127.0.0.1:9465", "[::1]:9465"],
)
def test_addresses_and_localhost_are_meant_for_us(header: str) -> None:
    assert host_allowed(header)


def test_only_a_request_without_a_host_header_may_leave_it_out() -> None:
    assert host_allowed(None)
    assert not host_allowed("")


@pytest.mark.parametrize(
    "header",
    [
        "attacker.example",
        "attacker.example:9465",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "[::1",
        "[attacker.example]",
        "attacker.example@127.0.0.1",
        "::1",
    ],
)
def test_any_other_name_is_refused_as_it_may_have_been_rebound(header: str) -> None:
    assert not host_allowed(header)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("forwarder.example", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
