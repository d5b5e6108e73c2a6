"""A sandbox as proto JSON, read into `forwarder.model.Sandbox`; pure.

The reader is tolerant: the API may add fields and states, and may leave out whatever has its
default. Only a sandbox without an id is refused, because nothing could be done with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from forwarder.model import Container, ContainerStatus, Sandbox, SandboxState

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)


class UnreadableAnswerError(ValueError):
    """An answer of the API is not what it should be."""


def sandbox_from_json(value: object, *, sandbox_id: str = "") -> Sandbox:
    """Read one sandbox.

    Args:
        value: The parsed JSON.
        sandbox_id: What was asked for, used when the answer does not repeat it.

    Raises:
        UnreadableAnswerError: This is not a sandbox: no object, or no id.
    """
    if not isinstance(value, Mapping):
        raise UnreadableAnswerError("a sandbox is not a JSON object")
    spec = _mapping(_field(value, "spec"))
    status = _mapping(_field(value, "status"))
    found_id = _text(_field(value, "sandboxId")) or sandbox_id
    if not found_id:
        raise UnreadableAnswerError("a sandbox has no id")
    return Sandbox(
        id=found_id,
        state=state_from_json(_field(status, "state")),
        display_name=_text(_field(value, "displayName")),
        containers=tuple(_container(item) for item in _list(_field(spec, "containers"))),
        tags=tuple(tag for tag in _list(_field(spec, "tags")) if isinstance(tag, str)),
        annotations=_annotations(_field(spec, "annotations")),
        create_time_ns=time_ns_from_json(_field(status, "createTime")),
        start_time_ns=time_ns_from_json(_field(status, "startTime")),
        end_time_ns=time_ns_from_json(_field(status, "endTime")),
        exit_code=_integer(_field(status, "exitCode")),
        runner_id=_text(_field(status, "runnerId")),
        container_statuses=tuple(
            _container_status(item) for item in _list(_field(status, "containerStatuses"))
        ),
    )


def page_from_json(value: object) -> tuple[list[Sandbox], str]:
    """Read one page of a listing: its sandboxes and the next page's token, empty on the last.

    Raises:
        UnreadableAnswerError: Some of it cannot be read; a part of a page is worse than none.
    """
    if not isinstance(value, Mapping):
        raise UnreadableAnswerError("a page of sandboxes is not a JSON object")
    sandboxes = _field(value, "sandboxes")
    if sandboxes is not None and not isinstance(sandboxes, list):
        raise UnreadableAnswerError("a page's sandboxes are not a JSON array")
    token = _field(value, "nextPageToken")
    if token is not None and not isinstance(token, str):
        raise UnreadableAnswerError("a page's next token is not a string")
    return [sandbox_from_json(item) for item in sandboxes or []], token or ""


def state_from_json(value: object) -> SandboxState:
    """A state by name (`STATE_RUNNING`) or number; one that we do not know is UNSPECIFIED."""
    if isinstance(value, str):
        return SandboxState.__members__.get(value.removeprefix("STATE_"), SandboxState.UNSPECIFIED)
    number = _integer(value)
    if number is not None and number in SandboxState.__members__.values():
        return SandboxState(number)
    return SandboxState.UNSPECIFIED


def time_ns_from_json(value: object) -> int | None:
    """An RFC 3339 time in nanoseconds since the epoch, exactly; None when it cannot be read."""
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    whole, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{whole}{zone}".upper())
        seconds = (moment - EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None
    return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


def _container(value: object) -> Container:
    fields = _mapping(value)
    return Container(
        name=_text(_field(fields, "name")),
        image=_text(_field(fields, "image")),
        primary=_field(fields, "primary") is True,
    )


def _container_status(value: object) -> ContainerStatus:
    fields = _mapping(value)
    return ContainerStatus(
        name=_text(_field(fields, "name")),
        state=state_from_json(_field(fields, "state")),
        restart_count=max(0, _integer(_field(fields, "restartCount")) or 0),
        exit_code=_integer(_field(fields, "exitCode")),
    )


def _annotations(value: object) -> dict[str, str]:
    return {
        key: text
        for key, text in _mapping(value).items()
        if isinstance(key, str) and isinstance(text, str)
    }


def _field(fields: Mapping[Any, Any], name: str) -> Any:
    """A field by its JSON name, else by the name in the .proto: proto JSON allows both."""
    if name in fields:
        return fields[name]
    return fields.get(re.sub("[A-Z]", lambda match: "_" + match[0].lower(), name))


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return None
