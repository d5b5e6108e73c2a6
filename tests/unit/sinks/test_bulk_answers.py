"""What each item of an answer means, with the words that real servers use."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sinks.bulk.answers import Verdicts, as_error, read_verdicts
from sinks.interface import (
    PartlyDeliveredError,
    SinkError,
    SinkMisconfiguredError,
    SinkUnavailableError,
)

CREATED = {"status": 201}
CONFLICT = {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "x"}}
BUSY = {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "full"}}
BAD = {
    "status": 400,
    "error": {
        "type": "mapper_parsing_exception",
        "reason": "failed to parse field [n] of type [long] in document with id 'm1'."
        " Preview of field's value: 'SECRET'",
        "caused_by": {"type": "illegal_argument_exception", "reason": 'For input: "SECRET"'},
    },
}
NO_INDEX = {
    "status": 404,
    "error": {"type": "index_not_found_exception", "reason": "no such index"},
}


def answer(*items: object, errors: bool = True) -> bytes:
    return orjson.dumps({"errors": errors, "items": [{"create": item} for item in items]})


def verdicts_on(*items: object, own_ids: bool = True) -> Verdicts:
    found = read_verdicts(answer(*items), len(items), own_ids=own_ids)
    assert found is not None
    return found


def error_of(*items: object) -> SinkError | None:
    return as_error(verdicts_on(*items), range(len(items)), where="https://es:9200")


def item(status: int, kind: str, reason: str = "", **more: Any) -> dict[str, Any]:
    return {"status": status, "error": {"type": kind, "reason": reason, **more}}


def test_what_was_created_now_or_before_is_there() -> None:
    assert verdicts_on(CREATED, CONFLICT, {"status": 200}) == Verdicts(there=3)
    assert error_of(CREATED, CONFLICT) is None


def test_a_conflict_over_an_id_that_is_not_ours_says_nothing() -> None:
    assert verdicts_on(CREATED, CONFLICT, own_ids=False).again == [1]


@pytest.mark.parametrize(
    "busy",
    [
        BUSY,
        item(503, "unavailable_shards_exception", "primary shard is not active"),
        item(500, "null_pointer_exception"),
        item(
            429,
            "cluster_block_exception",
            "index [a] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage"
            " watermark, index has read-only-allow-delete block];",
        ),
        {"status": 302},
        {"status": "201"},
        {},
        None,
        "created",
        {"error": "x"},
    ],
)
def test_what_the_server_cannot_do_now_comes_again(busy: object) -> None:
    assert verdicts_on(CREATED, busy, CREATED).again == [1]
    assert isinstance(error_of(busy, busy), SinkUnavailableError)


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (BAD, "mapper_parsing_exception"),
        (item(400, "document_parsing_exception"), "document_parsing_exception"),
        (
            item(400, "illegal_argument_exception", "Limit of total fields [20] has been exceeded"),
            "illegal_argument_exception",
        ),
        (item(400, "strict_dynamic_mapping_exception"), "strict_dynamic_mapping_exception"),
        (item(413, "too_large"), "too_large"),
        ({"status": 400}, "400"),
        ({"status": 400, "error": "text"}, "400"),
        ({"status": 400, "error": {"type": 7, "reason": []}}, "400"),
    ],
)
def test_a_document_that_the_index_does_not_take_is_refused(refused: object, status: str) -> None:
    found = verdicts_on(CREATED, refused, CREATED)
    assert found.there == 2
    assert list(found.refused) == [1]
    assert found.refused[1].status == status


@pytest.mark.parametrize(
    "held",
    [
        NO_INDEX,
        item(403, "cluster_block_exception", "blocked by: [FORBIDDEN/8/index write (api)];"),
        item(403, "security_exception", "action [indices:data/write/bulk] is unauthorized"),
        item(401, "security_exception", "missing authentication"),
        item(400, "index_closed_exception", "closed"),
        item(400, "invalid_index_name_exception", "must be lowercase"),
        item(400, "validation_exception", "this cluster has [1]/[1] maximum shards open;"),
        item(400, "illegal_argument_exception", "pipeline with id [x] does not exist"),
        item(400, "illegal_argument_exception", "no write index is defined for alias [al]."),
        item(400, "illegal_argument_exception", "no matching index template found for [a]"),
        item(
            400,
            "illegal_argument_exception",
            "Document ID is not supported in create/index operation request",
        ),
        item(
            400,
            "mapper_parsing_exception",
            "failed to parse",
            caused_by={
                "type": "illegal_argument_exception",
                "reason": "_id must be unset or set to [a] but was [b] because [c] is in"
                " time_series mode",
            },
        ),
    ],
)
def test_what_somebody_has_to_mend_is_never_given_up(held: object) -> None:
    assert verdicts_on(CREATED, held).held == [1]
    assert isinstance(error_of(held, held), SinkMisconfiguredError)
    partly = error_of(held, CREATED, BUSY)
    assert isinstance(partly, PartlyDeliveredError)
    assert partly.again == (0, 2)
    assert not partly.refused


def test_refusals_of_all_that_was_sent_are_refusals() -> None:
    error = error_of(BAD, BAD)
    assert isinstance(error, PartlyDeliveredError)
    assert (list(error.refused), error.again) == ([0, 1], ())
    error = error_of(BAD, NO_INDEX)
    assert isinstance(error, PartlyDeliveredError)
    assert (list(error.refused), error.again) == ([0], (1,))


def test_credentials_are_told_from_the_rest() -> None:
    unauthorized = error_of(item(403, "security_exception", "action is unauthorized"))
    assert isinstance(unauthorized, SinkMisconfiguredError)
    assert unauthorized.credentials
    missing = error_of(NO_INDEX)
    assert isinstance(missing, SinkMisconfiguredError)
    assert not missing.credentials


def test_each_item_of_a_mix_has_its_own_fate_and_its_record_s_number() -> None:
    mix = [CREATED, BAD, BUSY, CONFLICT, NO_INDEX, CREATED]
    error = as_error(verdicts_on(*mix), [0, 1, 3, 4, 7, 9], where="https://es:9200")
    assert isinstance(error, PartlyDeliveredError)
    assert list(error.refused) == [1]
    assert error.again == (3, 7)
    assert error.unnamed == 0
    assert str(error) == (
        "https://es:9200 refused 1 of 6: mapper_parsing_exception: failed to parse field [n] of"
        " type [long] in document with id 'm1' (illegal_argument_exception); did not take 2 of 6"
        " yet: 404: index_not_found_exception: no such index"
    )


def test_a_hold_names_the_server_s_reason() -> None:
    assert str(error_of(NO_INDEX)) == (
        "https://es:9200 answered 404: index_not_found_exception: no such index;"
        " mend that, and the sink goes on"
    )


@pytest.mark.parametrize(
    "reason",
    [
        "failed to parse field [n]. Preview of field's value: 'SECRET'",
        "[1:48] failed to parse field [n] of type [long]: Preview of field's value: 'SECRET\n'",
        "immense term in field. The prefix of the first immense term is: '[SECRET]'...",
        'For input string: "SECRET"',
        "failed to parse date field [SECRET] with format [strict_date_optional_time]",
    ],
)
def test_a_reason_does_not_quote_the_document(reason: str) -> None:
    refusal = verdicts_on(item(400, "mapper_parsing_exception", reason)).refused[0]
    assert "SECRET" not in refusal.reason
    assert "SECRET" not in str(error_of(item(400, "mapper_parsing_exception", reason)))


def test_a_reason_is_bounded_and_printable() -> None:
    reason = "\x1b[2J\u202e" + "x" * 100_000
    refusal = verdicts_on(item(400, "bad\n" * 1000, reason)).refused[0]
    assert len(refusal.reason) <= 300
    assert len(refusal.status) <= 300
    assert refusal.reason.isprintable()
    assert refusal.status.isprintable()


def test_a_server_that_leaves_items_out_when_there_is_no_error_is_believed() -> None:
    assert read_verdicts(b'{"errors":false}', 3, own_ids=True) == Verdicts(there=3)
    assert read_verdicts(b'{"errors":false,"items":[]}', 3, own_ids=True) == Verdicts(there=3)


def test_items_are_believed_more_than_their_summary() -> None:
    found = read_verdicts(answer(CREATED, BAD, errors=False), 2, own_ids=True)
    assert found is not None
    assert list(found.refused) == [1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ok",
        b"[]",
        b"null",
        b'"errors"',
        b"{}",
        b'{"errors":true}',
        b'{"errors":true,"items":[]}',
        b'{"errors":null}',
        b'{"errors":false,"items":{}}',
        b'{"errors":false,"items":null}',
        answer(CREATED),
        answer(CREATED, CREATED, CREATED),
        answer(CREATED, CREATED)[:-3],
        b'\xff{"errors":false}',
    ],
)
def test_an_answer_that_does_not_tell_of_every_document_tells_nothing(body: bytes) -> None:
    assert read_verdicts(body, 2, own_ids=True) is None


@pytest.mark.parametrize("strange", [7, None, [], {}, {"create": 7}, {"create": None}])
def test_a_strange_item_comes_again(strange: object) -> None:
    body = orjson.dumps({"errors": True, "items": [{"create": CREATED}, strange]})
    found = read_verdicts(body, 2, own_ids=True)
    assert found is not None
    assert (found.there, found.again) == (1, [1])
