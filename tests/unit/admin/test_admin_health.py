from __future__ import annotations

import pytest

from forwarder.admin.health import Health


@pytest.mark.parametrize(
    ("started", "answered", "writable", "reasons"),
    [
        (True, True, True, []),
        (False, True, True, ["the daemon is starting"]),
        (True, False, True, ["the sandbox API has given no useful answer yet"]),
        (True, True, False, ["the spool cannot be written: reading has stopped"]),
    ],
)
def test_everything_that_keeps_the_daemon_from_being_ready_is_named(
    started: bool, answered: bool, writable: bool, reasons: list[str]
) -> None:
    health = Health(lambda: started, lambda: answered, lambda: writable)
    assert health.reasons() == reasons


def test_all_reasons_are_named_at_once() -> None:
    health = Health(lambda: False, lambda: False, lambda: False)
    assert len(health.reasons()) == 3


def test_readiness_can_be_lost_and_come_back() -> None:
    room = [True]
    health = Health(lambda: True, lambda: True, lambda: room[0])
    assert health.reasons() == []
    room[0] = False
    assert health.reasons() != []
    room[0] = True
    assert health.reasons() == []
