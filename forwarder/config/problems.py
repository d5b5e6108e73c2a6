"""What is wrong with a configuration, each with its place, and how it reads."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from forwarder.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Where a value stands: mapping keys and list indexes from the top.
Loc = tuple[str | int, ...]

_MAX_SHOWN: Final = 60
#: A file of another kind has thousands of mistakes; nobody reads more than these.
_MAX_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake.

    Attributes:
        line: Counted from 1; None when the file as a whole is meant.
        path: The key's path, such as `sinks.archive.path`; empty for the file as a whole.
        text: What is wrong, and what is allowed.
    """

    file: str
    line: int | None
    path: str
    text: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.path, self.text) if part)


class InvalidConfigError(ConfigError):
    """The configuration cannot be used.

    Attributes:
        problems: Every problem found, in the order of the file; the message is one line for each.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:_MAX_PROBLEMS]]
        if len(self.problems) > _MAX_PROBLEMS:
            lines.append(f"... and {len(self.problems) - _MAX_PROBLEMS} more")
        super().__init__("\n".join(lines))


@dataclass(slots=True)
class Report:
    """Collects the problems of one file."""

    file: str
    problems: list[Problem] = field(default_factory=list)

    def add(self, line: int | None, loc: Loc, text: str) -> None:
        """Note a problem and go on."""
        self.problems.append(Problem(self.file, line, dotted(loc), text))

    def fatal(self, line: int | None, text: str) -> NoReturn:
        """Note a problem after which nothing more can be read.

        The exception being handled, if any, is left out of the traceback: it quotes the file.

        Raises:
            InvalidConfigError: Always.
        """
        self.add(line, (), text)
        raise self._error() from None

    def raise_any(self) -> None:
        """Raise what was collected, if anything was.

        Raises:
            InvalidConfigError: With every problem, once.
        """
        if self.problems:
            raise self._error()

    def _error(self) -> InvalidConfigError:
        unique = dict.fromkeys(self.problems)
        return InvalidConfigError(sorted(unique, key=lambda problem: problem.line or 0))


def dotted(loc: Loc) -> str:
    """A place as people write it: `sandboxes[1].id`; a key that is no plain word is quoted."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if re.fullmatch(r"[\w-]{1,60}", part) else quoted(part)
            text += f".{key}" if text else key
    return text


def quoted(text: str) -> str:
    """A text from the file, on one line, harmless on a terminal, and not too long."""
    if len(text) > _MAX_SHOWN:
        text = f"{text[:_MAX_SHOWN]}..."
    # Credentials in a URL are in front of its "@" or behind its "?".
    text = re.sub(r"(?<=//)[^/?#]*@", "***@", text)
    text = re.sub(r"(?<=\?).+", "***", text) if "://" in text else text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def listed(words: Iterable[str], *, last: str = "or") -> str:
    """Words in quotes: `"a"`, `"a" or "b"`, `"a", "b" or "c"`."""
    *head, tail = [f'"{word}"' for word in words]
    return f"{', '.join(head)} {last} {tail}" if head else tail


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    # The comparison is quadratic, and nobody mistypes so long a word.
    if len(word) > _MAX_SHOWN:
        return None
    by_shape = {_shape(name): name for name in known}
    match = difflib.get_close_matches(_shape(word), by_shape, n=1, cutoff=0.6)
    return by_shape[match[0]] if match else None


def _shape(word: str) -> str:
    return word.lower().replace("-", "_")
