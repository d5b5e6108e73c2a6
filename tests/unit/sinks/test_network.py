"""What an operator may write for a sink that speaks to a server, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sinks.plan import FOR_EVER_S
from tests.fakes.network import settings_for

URL = "https://logs.example.com:4318/path"
REMOTE = "http://logs.example.com"
TOKEN = {"bearer_token": "canary"}


def refusal(url: str = URL, **more: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        settings_for(url, **more)
    errors = caught.value.errors(include_url=False, include_input=False)
    assert "canary" not in str(caught.value)
    return " ".join(f"{error['loc']} {error['msg']}" for error in errors)


def test_an_address_stays_as_it_was_written() -> None:
    for url in ("http://h", "http://h/", "https://h:1/a/?b=c&d", "http://[::1]:9/x"):
        assert settings_for(url).endpoint == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        *(("logs.example.com", "expected a URL"), ("ftp://h", "expected a URL")),
        *(("https://", "expected a URL"), ("https://h:99999", "expected a URL")),
        ("https://user:canary@h/", "must not hold credentials"),
        ("https://h/#canary", 'has no "#"'),
        *(("http://169.254.169.254/latest", "link-local"), ("http://[fe80::1]/", "link-local")),
        *(
            ("http://[::ffff:169.254.1.1]/", "link-local"),
            ("http://[fd00:ec2::254]/", "link-local"),
        ),
    ],
)
def test_what_is_no_address_for_logs_is_refused(url: str, why: str) -> None:
    assert why in refusal(url)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        *(({"a b": "x"}, "not the name"), ({"": "x"}, "not the name"), ({"a:": "x"}, "not the na")),
        *(({"a\r\nb": "x"}, "not the name"), ({"é": "x"}, "not the name")),
        *(({"Host": "x"}, "by the sink itself"), ({"content-LENGTH": "x"}, "by the sink itself")),
        *(({"Transfer-Encoding": "x"}, "by the sink"), ({"Accept-Encoding": "x"}, "by the sink")),
        ({"X-Key": "canary", "x-key": "canary"}, "upper and lower case"),
        ({"X-Key": " "}, "must not be empty"),
    ],
)
def test_headers_are_names_and_values_and_never_the_sinks_own(
    headers: dict[str, str], why: str
) -> None:
    assert why in refusal(headers=headers)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"bearer_token": "canary", "bearer_token_file": "/t"}, "exclude each other"),
        ({"username": "u", "password": "canary", "password_file": "/t"}, "exclude each other"),
        ({**TOKEN, "username": "u", "password": "canary"}, "exclude each other"),
        ({**TOKEN, "headers": {"Authorization": "canary"}}, "exclude each other"),
        ({"username": "u"}, '"username" needs "password"'),
        ({"password": "canary"}, '"password" needs "username"'),
        *(({"username": "u:v", "password": "canary"}, 'without ":"'),),
        ({"username": "u\n", "password": "canary"}, "printable"),
        ({"bearer_token": " "}, "must not be empty"),
    ],
)
def test_there_is_one_way_to_log_in(more: dict[str, Any], why: str) -> None:
    assert why in refusal(**more)


@pytest.mark.parametrize(
    "secret", [TOKEN, {"username": "u", "password": "canary"}, {"headers": {"X": "canary"}}]
)
def test_credentials_do_not_travel_in_the_clear_unless_told_to(secret: dict[str, Any]) -> None:
    assert "in the clear" in refusal(REMOTE, **secret)
    for url in (URL, "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        settings_for(url, **secret)
    settings_for(REMOTE, allow_plaintext=True, **secret)
    settings_for(REMOTE)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tls": {"key_file": "/k"}}, 'needs "cert_file"'),
        ({"compression": "br"}, "gzip"),
        ({"timeout": "0s"}, "between"),
        ({"in_flight": 0}, "greater"),
        ({"workers": 65}, "less"),
        ({"batch": {"max_bytes": "65MiB"}}, "between"),
        ({"batch": {"max_records": 0}}, "greater"),
        ({"retry_statuses": [200]}, "greater"),
        ({"give_up_after": "1s"}, "between"),
        ({"verify": False}, "Extra inputs"),
    ],
)
def test_values_out_of_bounds_are_refused(more: dict[str, Any], why: str) -> None:
    assert why in refusal(**more)


def test_the_plan_is_what_the_settings_say() -> None:
    batch = {"max_records": 7, "max_bytes": "2KiB", "max_age": "3s"}
    more = {"timeout": "5s", "in_flight": 9, "give_up_after": "2h", "batch": batch}
    plan = settings_for(URL, dead_letters={"max_size": "1MiB"}, **more).plan
    assert (plan.max_records, plan.max_bytes, plan.max_age_s) == (7, 2048, 3.0)
    assert (plan.timeout_s, plan.in_flight, plan.give_up_after_s) == (5.0, 9, 7200.0)
    assert (plan.dead_letter_bytes, plan.fixed) == (1 << 20, False)


def test_nothing_is_given_up_unless_told_to() -> None:
    assert settings_for(URL).plan.give_up_after_s == FOR_EVER_S
