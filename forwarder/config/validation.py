"""From marked nodes to settings, with every problem at once.

Pydantic stops a class's own checks at its first wrong field. So what was reported is taken out and
the rest is looked at again, until nothing new comes up: a typing error in one key does not hide an
impossible combination of others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from forwarder.config.problems import nearest
from forwarder.config.shape import is_expected, is_secret, keys_at
from forwarder.config.tree import ListNode, MapNode, Scalar, locate, resolve, scalars
from forwarder.config.words import NO_VALUE, describe_error, required, unknown_key

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from forwarder.config.problems import Loc, Report

ModelT = TypeVar("ModelT", bound=BaseModel)

_NUMBER_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "bool_type": (bool,),
    "int_type": (int,),
    "float_type": (int, float),
}


@dataclass
class Validation(Generic[ModelT]):
    """One mapping on its way to one settings object.

    Attributes:
        model: The class to make.
        node: What stands in the file.
        base: Where in the file it stands.
        shape: The class whose keys are known there; usually `model`.
    """

    model: type[ModelT]
    node: MapNode
    base: Loc
    report: Report
    shape: type[BaseModel]
    _gone: set[Loc] = field(default_factory=set)

    def run(self) -> ModelT | None:
        """The settings, or None after everything that is wrong was reported."""
        data: Any = self.node.plain()
        before = len(self.report.problems)
        for loc, scalar in scalars(self.node):
            self._check_empty(loc, scalar)
            if scalar.broken:
                self._remove(data, loc)
        while True:
            try:
                # JSON mode is strict about types and yet takes a list for a tuple, text for a path.
                settings = self.model.model_validate_json(json.dumps(data), strict=True)
            except ValidationError as error:
                if not self._digest(data, error.errors(include_url=False)):
                    return None
            else:
                return None if self._gone or len(self.report.problems) > before else settings

    def _check_empty(self, loc: Loc, scalar: Scalar) -> None:
        # An optional setting would take "nothing" as if its key were not there.
        if not scalar.broken and scalar.plain() is None and is_expected(self.shape, loc):
            scalar.broken = True
            self.report.add(scalar.line, (*self.base, *loc), NO_VALUE)

    def _digest(self, data: Any, errors: list[ErrorDetails]) -> bool:
        """Report errors and take them out of the data; whether looking again makes sense."""
        if any([self._convert(data, error) for error in errors]):  # noqa: C419 - convert every one
            return True
        # Unknown keys first: they explain missing ones.
        errors.sort(key=lambda error: error["type"] != "extra_forbidden")
        values: list[Loc] = []
        sections: list[Loc] = []
        for error in errors:
            loc = self._loc(error)
            if not self._explained(error, loc):
                self._add(error, loc)
            (sections if self._is_section(error, loc) else values).append(loc)
        # A section goes only when nothing in it can be looked at any more.
        return self._remove_all(data, values) or self._remove_all(data, sections)

    def _is_section(self, error: ErrorDetails, loc: Loc) -> bool:
        if error["type"] in {"missing", "extra_forbidden"}:
            return error["type"] == "missing"
        return isinstance(locate(self.node, loc)[2], MapNode)

    def _loc(self, error: ErrorDetails) -> Loc:
        return (*error["loc"], *error.get("ctx", {}).get("at", ()))

    def _convert(self, data: Any, error: ErrorDetails) -> bool:
        """Take a substituted text for the number or truth value that is asked for there."""
        loc = error["loc"]
        wanted = _NUMBER_TYPES.get(error["type"])
        _, found, node = locate(self.node, loc)
        if wanted is None or found != loc or not isinstance(node, Scalar) or not node.substituted:
            return False
        value = resolve(node.text)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            return False
        for part in loc[:-1]:
            data = data[part]
        data[loc[-1]] = value
        return True

    def _explained(self, error: ErrorDetails, loc: Loc) -> bool:
        """Whether what was already reported is the likely reason for this error too."""
        node = locate(self.node, loc)[2]
        if error["type"] == "too_short" and isinstance(node, ListNode) and node.items:
            return True
        if any(loc[: len(gone)] == gone for gone in self._gone):
            return True
        context = error.get("ctx", {})
        about = [(*error["loc"], *key.split(".")) for key in context.get("about", ())]
        if error["type"] in {"value_error", "assertion_error"}:
            about = [error["loc"]]
        return any(gone[: len(place)] == place for gone in self._gone for place in about)

    def _add(self, error: ErrorDetails, loc: Loc) -> None:
        line, found, node = locate(self.node, loc)
        if error["type"] == "extra_forbidden":
            text = self._unknown_key(loc)
        elif error["type"] == "missing":
            found, text = loc, required(self.shape, loc)
        else:
            # A union's errors name its branches behind the place: nobody wrote those.
            text = describe_error(error, node, hidden=is_secret(self.shape, found))
        self.report.add(line, (*self.base, *found), text)

    def _unknown_key(self, loc: Loc) -> str:
        parent = locate(self.node, loc[:-1])[2]
        given = parent.items if isinstance(parent, MapNode) else {}
        known = keys_at(self.shape, loc[:-1])
        meant = nearest(str(loc[-1]), [key for key in known if key not in given])
        if meant is not None:
            self._gone.add((*loc[:-1], meant))
        return unknown_key(meant, known)

    def _remove_all(self, data: Any, locs: list[Loc]) -> bool:
        return any([self._remove(data, loc) for loc in locs])  # noqa: C419 - remove every one

    def _remove(self, data: Any, loc: Loc) -> bool:
        """Take a key out; for an item of a list, the key that has the list."""
        _, loc, _ = locate(self.node, loc)
        while loc and isinstance(loc[-1], int):
            loc = loc[:-1]
        if not loc:
            return False
        self._gone.add(loc)
        for part in loc[:-1]:
            if isinstance(data, dict) and part not in data:
                return False
            data = data[part]
        return data.pop(loc[-1], None) is not None


def validate(
    model: type[ModelT],
    node: MapNode,
    base: Loc,
    report: Report,
    *,
    shape: type[BaseModel] | None = None,
) -> ModelT | None:
    """Make settings from a mapping; None after everything that is wrong was reported."""
    return Validation(model, node, base, report, shape or model).run()
