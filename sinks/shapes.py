"""The shapes that file names can have, and whether two of them can be one name. Pure.

A shape is wider than what really happens: a value may be any text here that is safe in a file name.
So shapes that never meet are certain, and those that may meet perhaps never do.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What a value may consist of, beside the `~` that stands before other bytes' digits.
SAFE_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")

_DIGIT, _DIGITS, _VALUE = "digit", "digits", "value"
_DECIMALS = frozenset("0123456789")


@dataclass(frozen=True, slots=True)
class Shape:
    """Names of one kind: a sign for each character or, for some signs, for one or more of them.

    Attributes:
        signs: A character is itself; the others are private to this module.
    """

    signs: tuple[str, ...] = ()

    def text(self, text: str) -> Shape:
        """This, and behind it exactly this text."""
        return Shape((*self.signs, *text))

    def digits(self, count: int, *, or_more: bool = False) -> Shape:
        """This, and behind it so many decimal digits."""
        last = (_DIGITS if or_more else _DIGIT,)
        return Shape(self.signs + (_DIGIT,) * (count - 1) + last)

    def value(self) -> Shape:
        """This, and behind it a value that was made safe for a file name."""
        return Shape((*self.signs, _VALUE))

    def may_meet(self, other: Shape) -> bool:
        """Whether some text has both shapes: both are walked at once."""
        ours, theirs = self.signs, other.signs
        reached = {(0, 0)}
        waiting = [(0, 0)]
        while waiting:
            i, j = waiting.pop()
            if i == len(ours) and j == len(theirs):
                return True
            if i == len(ours) or j == len(theirs) or not _may_agree(ours[i], theirs[j]):
                continue
            steps = {(i + 1, j + 1)}
            steps |= {(i, j + 1)} if ours[i] in _REPEATED else set()
            steps |= {(i + 1, j)} if theirs[j] in _REPEATED else set()
            waiting.extend(steps - reached)
            reached |= steps
        return False


_REPEATED = frozenset({_DIGITS, _VALUE})


def _may_agree(one: str, other: str) -> bool:
    """Whether one character fits both signs."""
    return one == other or _fits(one, other) or _fits(other, one)


def _fits(sign: str, other: str) -> bool:
    """Whether something that fits the other sign fits this one, which stands for several."""
    if other in {_DIGIT, _DIGITS}:
        return sign in {_DIGIT, _DIGITS, _VALUE}
    if sign in {_DIGIT, _DIGITS}:
        return other in _DECIMALS
    return sign == _VALUE and (other == "~" or (other.isascii() and ord(other) in SAFE_BYTES))
