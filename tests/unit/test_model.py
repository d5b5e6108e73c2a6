from __future__ import annotations

import pytest

from forwarder.model import Sandbox, SandboxState, StreamKey, StreamState


def test_a_stream_is_its_sandbox_and_its_container_and_nothing_else() -> None:
    assert StreamKey("sbx", "main") == StreamKey("sbx", "main")
    assert len({StreamKey("sbx", "main"), StreamKey("sbx", "side"), StreamKey("sbx", "")}) == 3
    assert str(StreamKey("sbx", "main")) == "sbx/main"
    assert str(StreamKey("sbx", "")) == "sbx"


@pytest.mark.parametrize("state", SandboxState)
def test_only_a_sandbox_whose_process_is_over_has_ended(state: SandboxState) -> None:
    """An unknown state is "not ended": to stop following it would lose its lines."""
    over = {SandboxState.COMPLETED, SandboxState.FAILED, SandboxState.TERMINATED}
    assert state.ended == (state in over)
    assert Sandbox("sbx", state).ended == state.ended


def test_the_states_are_numbered_as_the_api_numbers_them() -> None:
    assert {state.name: state.value for state in SandboxState} == {
        "UNSPECIFIED": 0,
        "CREATING": 1,
        "RUNNING": 2,
        "COMPLETED": 3,
        "FAILED": 4,
        "TERMINATING": 5,
        "TERMINATED": 6,
        "PENDING": 7,
        "PAUSED": 8,
        "PREPARING": 9,
    }


def test_a_stream_is_final_when_it_was_read_to_its_end_or_is_not_known() -> None:
    assert {state for state in StreamState if state.final} == {
        StreamState.COMPLETE,
        StreamState.NOT_FOUND,
    }
