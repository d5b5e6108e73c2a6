"""`${NAME}` and `${NAME:-default}`, replaced in values after the file was parsed.

What comes in stays the text of one value: it can neither add keys nor become a number by itself,
and it is not searched for further names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from forwarder.config.tree import scalars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forwarder.config.problems import Report
    from forwarder.config.tree import Node

_REFERENCE: Final = re.compile(
    r"""\$\$                                # a dollar itself
    |   \$\{ (?P<name>[A-Za-z_][A-Za-z0-9_]*) (?: :-(?P<default>[^}]*) )? \}
    |   (?P<broken>\$\{)""",
    re.VERBOSE,
)


class SubstitutionError(ValueError):
    """A reference that cannot be replaced. The message names the variable, never a value."""


def substitute(text: str, env: Mapping[str, str]) -> str:
    """Replace every reference in a text; `$$` stands for `$`, any other `$` for itself.

    As in a shell, a default is used when the variable is not set or empty.

    Raises:
        SubstitutionError: A variable is not set and has no default, or a reference is malformed.
    """

    def replace(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match["broken"]:
            raise SubstitutionError(
                'a malformed reference: write ${NAME} or ${NAME:-default}, or "$${" for the text'
            )
        if name is None:
            return "$"
        return _value(name, default, env)

    return _REFERENCE.sub(replace, text)


def _value(name: str, default: str | None, env: Mapping[str, str]) -> str:
    value = env.get(name)
    if default is not None and not value:
        return default
    if value is None:
        raise SubstitutionError(
            f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
        )
    # Bytes that are not UTF-8 reach Python as lone surrogates, which no destination would take.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise SubstitutionError(f"the environment variable {name} is not UTF-8 text")
    return value


def substitute_tree(root: Node, env: Mapping[str, str], report: Report) -> None:
    """Replace the references in every value below a node; keys stay as they are."""
    for loc, scalar in scalars(root):
        if "$" not in scalar.source or scalar.broken:
            continue
        try:
            scalar.text = substitute(scalar.source, env)
        except SubstitutionError as error:
            scalar.broken = True
            report.add(scalar.line, loc, str(error))
