"""Error answers of a REST endpoint, in every form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.source.errors_map import Failure
from forwarder.source.stored_errors import rest_failure

INFO = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "WHY",
    "domain": "cwsandbox.com",
}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.5s"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    "answer",
    [
        {"code": 9, "message": "no", "details": [INFO, RETRY]},
        {"error": {"code": 400, "status": "FAILED_PRECONDITION", "message": "no"}},
        {"error": {"code": 9, "message": "no"}},
        {"error": {"code": "failed_precondition", "message": "no"}},
        {"code": "failed_precondition", "message": "no"},
    ],
)
def test_every_form_of_an_error_is_read(answer: dict[str, object]) -> None:
    failure = rest_failure(answer, 400)
    assert failure is not None
    assert (failure.code, failure.message) == ("failed_precondition", "no")


def test_details_are_read_whatever_stands_among_them() -> None:
    foreign = {**INFO, "reason": "PROXY", "domain": "proxy.example"}
    odd = [None, 5, {}, {"@type": 5}, {**RETRY, "retryDelay": "soon"}, {**INFO, "reason": 5}]
    answer = {"code": 8, "details": [foreign, INFO, foreign, RETRY, *odd]}
    assert rest_failure(answer, 429) == Failure("resource_exhausted", "", "WHY", 2.5)


def test_a_spelling_of_canceled_is_as_good_as_the_other() -> None:
    failure = rest_failure({"error": {"status": "CANCELLED"}}, 499)
    assert failure is not None
    assert failure.code == "canceled"


def test_not_found_without_a_reason_is_a_gateways_word_for_no_such_path() -> None:
    assert rest_failure({"code": 5, "message": "Not Found", "details": []}, 404) is None
    failure = rest_failure({"code": 5, "details": [INFO]}, 404)
    assert failure is not None
    assert (failure.code, failure.reason) == ("not_found", "WHY")


@pytest.mark.parametrize(
    "answer", [None, [], "no", {}, {"code": 0}, {"code": 17}, {"code": True}, {"error": "no"}]
)
def test_what_is_no_error_of_the_api_is_none(answer: object) -> None:
    assert rest_failure(answer, 400) is None


@given(JSON)
def test_any_json_is_read(value: object) -> None:
    rest_failure(value, 404)
    rest_failure({"error": value, "code": value, "details": value}, 400)
    rest_failure({"code": 9, "details": value}, 400)
