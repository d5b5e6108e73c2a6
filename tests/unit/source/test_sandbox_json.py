"""Sandboxes from proto JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cwsandbox._proto import sandbox_pb2 as pb
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from forwarder.model import Container, ContainerStatus, Sandbox, SandboxState
from forwarder.source import messages_pb2
from forwarder.source.sandbox_json import (
    UnreadableAnswerError,
    page_from_json,
    sandbox_from_json,
    state_from_json,
    time_ns_from_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_a_sandbox_with_only_an_id_is_enough() -> None:
    assert sandbox_from_json({"sandboxId": "a"}) == Sandbox("a", SandboxState.UNSPECIFIED)
    assert sandbox_from_json({}, sandbox_id="a") == Sandbox("a", SandboxState.UNSPECIFIED)


def test_the_names_of_the_proto_are_read_too() -> None:
    sandbox = sandbox_from_json(
        {"sandbox_id": "a", "display_name": "n", "status": {"runner_id": "r", "exit_code": "3"}}
    )
    assert (sandbox.id, sandbox.display_name, sandbox.runner_id) == ("a", "n", "r")
    assert sandbox.exit_code == 3


def test_unknown_fields_are_passed_over() -> None:
    value = {"sandboxId": "a", "future": {"x": 1}, "spec": {"tags": ["t"], "gpu": 8}}
    assert sandbox_from_json(value).tags == ("t",)


def test_fields_of_a_wrong_type_read_as_missing() -> None:
    value = {
        "sandboxId": "a",
        "displayName": 5,
        "spec": {"containers": ["x", {"name": "c", "primary": "yes"}], "tags": [1, "t"]},
        "status": {"state": [], "exitCode": "many", "createTime": 7, "startTime": "yesterday"},
    }
    assert sandbox_from_json(value) == Sandbox(
        "a", SandboxState.UNSPECIFIED, containers=(Container(""), Container("c")), tags=("t",)
    )


@pytest.mark.parametrize("value", [None, [], "a", {}, {"sandboxId": ""}, {"sandboxId": 5}])
def test_what_has_no_id_is_not_a_sandbox(value: object) -> None:
    with pytest.raises(UnreadableAnswerError):
        sandbox_from_json(value)


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    sandbox_from_json({"sandboxId": "a", "spec": value, "status": value, "displayName": value})
    for status in ({"state": value}, {"exitCode": value}, {"createTime": value}):
        sandbox_from_json({"sandboxId": "a", "status": status})


@pytest.mark.parametrize("state", list(SandboxState))
def test_every_state_is_known_by_name_and_number(state: SandboxState) -> None:
    assert state_from_json(f"STATE_{state.name}") is state
    assert state_from_json(int(state)) is state


@pytest.mark.parametrize("value", ["STATE_DREAMING", 99, -1, None, True, 1.0, ""])
def test_an_unknown_state_is_unspecified_and_not_ended(value: object) -> None:
    assert state_from_json(value) is SandboxState.UNSPECIFIED


# Times


@given(st.integers(min_value=-62135596800 * 10**9, max_value=253402300799 * 10**9))
def test_every_time_that_proto_json_writes_is_read_exactly(time_ns: int) -> None:
    stamp = Timestamp()
    stamp.FromNanoseconds(time_ns)
    assert time_ns_from_json(MessageToDict(stamp)) == time_ns


@pytest.mark.parametrize("digits", range(10))
def test_a_fraction_may_have_any_number_of_digits(digits: int) -> None:
    fraction = "123456789"[:digits]
    text = f"1970-01-01T00:00:01{'.' + fraction if fraction else ''}Z"
    assert time_ns_from_json(text) == 10**9 + int(fraction.ljust(9, "0"))


def test_an_offset_is_taken_into_account() -> None:
    moment = datetime(2024, 6, 1, 12, tzinfo=UTC)
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * 10**9
    assert time_ns_from_json("2024-06-01T14:00:00+02:00") == expected
    assert time_ns_from_json("2024-06-01t12:00:00z") == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "",
        "now",
        "2024-06-01T12:00:00",
        "2024-13-01T12:00:00Z",
        "2024-06-01T12:00:60Z",
        "2024-06-01T12:00:00.1234567890Z",
        "2024-06-01 12:00:00Z",
        "0001-01-01T00:00:00+99:00",
    ],
)
def test_what_is_no_time_reads_as_missing(value: object) -> None:
    assert time_ns_from_json(value) is None


# Pages


def test_a_page_has_sandboxes_and_a_token() -> None:
    page, token = page_from_json({"sandboxes": [{"sandboxId": "a"}], "nextPageToken": "t"})
    assert ([sandbox.id for sandbox in page], token) == (["a"], "t")


def test_an_empty_page_is_the_last() -> None:
    assert page_from_json({}) == ([], "")
    assert page_from_json({"sandboxes": None, "nextPageToken": None}) == ([], "")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {"sandboxes": {}},
        {"sandboxes": [{}]},
        {"sandboxes": [5]},
        {"nextPageToken": 5},
    ],
)
def test_a_page_that_cannot_be_read_whole_is_refused(value: object) -> None:
    with pytest.raises(UnreadableAnswerError):
        page_from_json(value)


# Containers


def test_the_statuses_of_containers_are_read() -> None:
    value = {
        "sandboxId": "a",
        "status": {
            "containerStatuses": [
                {"name": "main", "state": "STATE_RUNNING", "restartCount": "3"},
                {"name": "side", "state": "STATE_FAILED", "exitCode": 137, "restart_count": 1},
            ]
        },
    }
    assert sandbox_from_json(value).container_statuses == (
        ContainerStatus("main", SandboxState.RUNNING, restart_count=3),
        ContainerStatus("side", SandboxState.FAILED, restart_count=1, exit_code=137),
    )


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, ()),
        ("none", ()),
        ({"name": "main"}, ()),
        (["main"], (ContainerStatus("", SandboxState.UNSPECIFIED),)),
        (
            [{"name": 5, "state": [], "restartCount": "many", "exitCode": True}],
            (ContainerStatus("", SandboxState.UNSPECIFIED),),
        ),
        (
            [{"name": "main", "restartCount": -1}],
            (ContainerStatus("main", SandboxState.UNSPECIFIED),),
        ),
    ],
)
def test_statuses_that_make_no_sense_are_read_as_far_as_they_do(
    given: object, read: tuple[ContainerStatus, ...]
) -> None:
    value = {"sandboxId": "a", "status": {"containerStatuses": given}}
    assert sandbox_from_json(value).container_statuses == read


def test_the_statuses_come_over_grpc_too() -> None:
    message = pb.Sandbox(sandbox_id="a")
    message.status.container_statuses.add(
        name="main", state=pb.STATE_FAILED, exit_code=1, restart_count=2
    )
    ours = messages_pb2.Sandbox.FromString(message.SerializeToString())
    assert sandbox_from_json(MessageToDict(ours)).container_statuses == (
        ContainerStatus("main", SandboxState.FAILED, restart_count=2, exit_code=1),
    )


MAIN, SIDE = (ContainerStatus(name, SandboxState.RUNNING) for name in ("main", "side"))


@pytest.mark.parametrize(
    ("containers", "statuses", "asked", "found"),
    [
        ((), (), "", None),
        ((), (MAIN,), "", MAIN),
        ((), (MAIN,), "other", MAIN),
        ((), (MAIN, SIDE), "side", SIDE),
        ((), (MAIN, SIDE), "other", None),
        ((), (MAIN, SIDE), "", None),
        ((Container("side"), Container("main")), (MAIN, SIDE), "", SIDE),
        ((Container("side"), Container("main", primary=True)), (MAIN, SIDE), "", MAIN),
        ((Container(""), Container("main")), (MAIN, SIDE), "", None),
    ],
)
def test_the_status_of_a_container_is_found_or_unknown(
    containers: tuple[Container, ...],
    statuses: tuple[ContainerStatus, ...],
    asked: str,
    found: ContainerStatus | None,
) -> None:
    sandbox = Sandbox("a", SandboxState.RUNNING, containers=containers, container_statuses=statuses)
    assert sandbox.status_of(asked) == found
