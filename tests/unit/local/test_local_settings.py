from __future__ import annotations

from typing import Any

import pytest

from forwarder.local.settings import Faults, LocalSettings, StatusFault


def test_every_service_makes_up_a_key_of_its_own() -> None:
    assert LocalSettings().api_key != LocalSettings().api_key


def test_faults_go_through_json_and_back() -> None:
    faults = Faults(
        cut_after_bytes=7, statuses={"GetSandbox": StatusFault("internal", 2, "WHY", 1.5)}
    )
    copy = Faults()
    copy.merge(faults.as_json())
    assert copy == faults


def test_resetting_takes_every_fault_away() -> None:
    faults = Faults(stall=True, statuses={"GetSandbox": StatusFault()})
    faults.reset()
    assert faults == Faults()


def test_every_change_is_told() -> None:
    told: list[int] = []
    faults = Faults()
    faults.on_change(lambda: told.append(1))
    faults.stall = True
    faults.merge({"offset_shift": -5, "refuse_credentials": "permission_denied"})
    assert len(told) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"no_such_fault": 1},
        {"stall": "yes"},
        {"silent": 1},
        {"change_session": None},
        {"piece_bytes": 0},
        {"piece_bytes": True},
        {"cut_after_bytes": -1},
        {"cut_after_bytes": "7"},
        {"offset_value": 2**64},
        {"replay_extra_bytes": None},
        {"status_code": "odd"},
        {"refuse_credentials": "odd"},
        {"error_code": 5},
        {"statuses": []},
        {"statuses": {"GetSandbox": {"code": "odd"}}},
        {"statuses": {"GetSandbox": {"odd": 1}}},
        {"statuses": {"GetSandbox": 5}},
    ],
)
def test_a_wrong_fault_is_refused_and_changes_nothing(changes: dict[str, Any]) -> None:
    faults = Faults()
    with pytest.raises(ValueError):
        faults.merge({"stall": True, **changes})
    assert faults == Faults()


def test_a_misspelt_fault_is_refused() -> None:
    with pytest.raises(AttributeError, match="stal"):
        Faults().stal = True  # type: ignore[attr-defined]  # the mistake under test


@pytest.mark.parametrize(
    "wrong",
    [
        {"stored_field_names": "entries,timestamp"},
        {"stored_field_names": "entries,timestamp,"},
        {"stored_field_names": "a,a,b"},
        {"stored_precision_ns": 0},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LocalSettings(**wrong)
