"""The values that settings are made of, and the base of every sink's settings.

A settings object is frozen and touches nothing. In the configuration file sizes and durations are
text with a unit; from Python they may also be given as plain numbers of bytes and seconds.
"""

import os
import re
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sinks.plan import DeliveryPlan

_SIZE_UNITS: Final[Mapping[str, int]] = {
    "TiB": 2**40,
    "TB": 10**12,
    "GiB": 2**30,
    "GB": 10**9,
    "MiB": 2**20,
    "MB": 10**6,
    "KiB": 2**10,
    "kB": 10**3,
    "KB": 10**3,
    "B": 1,
}
_DURATION_UNITS: Final[Mapping[str, Decimal]] = {
    "d": Decimal(86_400),
    "h": Decimal(3_600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_NUMBER: Final = r"[0-9]{1,12}(?:\.[0-9]{1,20})?"
_SIZE_TEXT: Final = f"({_NUMBER}) ?({'|'.join(_SIZE_UNITS)})"
_DURATION_TEXT: Final = f"({_NUMBER}) ?({'|'.join(_DURATION_UNITS)})"
#: No key is longer than this, and a mistaken path to /dev/zero must not fill the memory.
_MAX_SECRET_FILE_BYTES: Final = 64 * 1024


def problem(
    text: str, *, at: Sequence[str | int] = (), about: Sequence[str] = (), seen: bool = True
) -> PydanticCustomError:
    """An error for a validator to raise; the engine adds file, line, path and the value seen.

    Args:
        text: What is wrong and what is allowed, without the value itself: it may be a secret.
        at: Where, below the validated value, when that is not the value itself.
        about: The keys, dotted, that the check looks at. When one of them is already reported as
            wrong, this error is left out.
        seen: Whether the value helps to understand it; a secret is never shown anyhow.
    """
    context = {"text": text, "at": tuple(at), "about": tuple(about), "seen": seen}
    return PydanticCustomError("settings", "{text}", context)


def parse_byte_size(text: str) -> int:
    """Read a size such as `64MiB`, `1.5GB` or `512 KiB`, in bytes.

    Raises:
        ValueError: It is none, or not a whole number of bytes.
    """
    match = re.fullmatch(_SIZE_TEXT, text)
    if match is None:
        raise ValueError('expected a size with a unit, such as "64MiB" or "1GB"')
    size = Decimal(match[1]) * _SIZE_UNITS[match[2]]
    if size != size.to_integral_value():
        raise ValueError("expected a whole number of bytes")
    return int(size)


def format_byte_size(size_bytes: int) -> str:
    """The shortest way to write a size; `parse_byte_size` reads it back exactly."""
    exact = [(size_bytes // n, unit) for unit, n in _SIZE_UNITS.items() if size_bytes % n == 0]
    count, unit = min(exact, key=lambda pair: (pair[0], len(pair[1]))) if size_bytes else (0, "B")
    return f"{count}{unit}"


def parse_duration(text: str) -> float:
    """Read a duration such as `250ms`, `1.5s`, `5m`, `2h` or `7d`, in seconds.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(_DURATION_TEXT, text)
    if match is None:
        raise ValueError('expected a duration with a unit, such as "250ms", "5s", "5m" or "7d"')
    return float(Decimal(match[1]) * _DURATION_UNITS[match[2]])


def format_duration(duration_s: float) -> str:
    """The largest unit that gives a whole number; `parse_duration` reads it back exactly."""
    exact = Decimal(repr(float(duration_s)))
    for unit, seconds in _DURATION_UNITS.items():
        if exact >= seconds and exact % seconds == 0:
            return f"{exact / seconds:.0f}{unit}"
    return f"{exact.normalize():f}s"


def _from_text(parse: Callable[[str], float], value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) or info.mode == "json":
        try:
            # Anything that is no text has no unit either.
            return parse(value if isinstance(value, str) else "")
        except ValueError as error:
            raise problem(str(error)) from None
    return value


def _size_from_text(value: object, info: ValidationInfo) -> object:
    return _from_text(parse_byte_size, value, info)


def _duration_from_text(value: object, info: ValidationInfo) -> object:
    return _from_text(parse_duration, value, info)


#: Bytes, written as text with a unit.
ByteSize = Annotated[
    int,
    BeforeValidator(_size_from_text),
    PlainSerializer(format_byte_size, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{_SIZE_TEXT}$", "examples": ["64MiB"]}),
]

#: Seconds, written as text with a unit.
Duration = Annotated[
    float,
    BeforeValidator(_duration_from_text),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION_TEXT}$", "examples": ["5s"]}),
]


@dataclass(frozen=True, slots=True)
class Within:
    """The smallest and the largest value of a `ByteSize` or `Duration`, both included."""

    low: str
    high: str

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        parse = parse_byte_size if source is int else parse_duration
        low, high = parse(self.low), parse(self.high)

        def check(value: float) -> float:
            if not low <= value <= high:
                raise problem(f"must be between {self.low} and {self.high}")
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def _check_path(path: Path) -> Path:
    text = str(path)
    if not path.parts or "\0" in text:
        raise problem("expected a path")
    if text.startswith("~"):
        raise problem('"~" is not replaced; write the whole path, or use ${HOME}')
    return path


#: A path on this machine. It is checked as text only, never looked up.
LocalPath = Annotated[Path, AfterValidator(_check_path)]


class Secret:
    """Text that shows itself only to who asks for it: `repr`, `str`, dumps and schemas do not."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from_text = core_schema.no_info_after_validator_function(
            cls._from_text, core_schema.str_schema()
        )
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema(
                [core_schema.is_instance_schema(cls), from_text]
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "writeOnly": True}

    @classmethod
    def _from_text(cls, text: str) -> Self:
        if not text.strip():
            raise problem("must not be empty")
        return cls(text)


class SecretUnavailableError(Exception):
    """A secret's file cannot be read now. The message names the key and the file."""


@dataclass(frozen=True, slots=True)
class SecretSource:
    """A secret given either as a value or as a file that holds it.

    Attributes:
        key: What an operator calls it: the path of its key in the configuration.
    """

    key: str
    value: Secret | None
    file: Path | None

    def read(self) -> str:
        """The secret; the file is read at every call, so that a rotated one is seen.

        White space around a file's content is not part of the secret.

        Raises:
            SecretUnavailableError: There is no such file, it cannot be read, or it is empty.
        """
        if self.file is None:
            return self.value.reveal() if self.value else ""
        try:
            text = _read_secret_file(self.file).decode().strip()
        except OSError as error:
            reason = error.strerror or "it cannot be read"
            raise SecretUnavailableError(f"{self.key}: {self.file}: {reason}") from None
        except UnicodeDecodeError:
            raise SecretUnavailableError(f"{self.key}: {self.file}: not UTF-8 text") from None
        if not text:
            raise SecretUnavailableError(f"{self.key}: {self.file}: the file is empty")
        return text


def _read_secret_file(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a pipe that nobody writes to would block the event loop for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        content = file.read(_MAX_SECRET_FILE_BYTES + 1)
    if len(content) > _MAX_SECRET_FILE_BYTES:
        raise OSError(0, "too large for a secret")
    return content


class Section(BaseModel):
    """The base of every part of the configuration: frozen, and unknown keys are errors.

    The text under a field becomes its description in the JSON Schema.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        validate_default=False,
    )

    def refuse_both(self, *keys: str) -> None:
        """For validators: at most one of these keys may be given.

        Raises:
            PydanticCustomError: More than one is.
        """
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) > 1:
            names = " and ".join(f'"{key}"' for key in given)
            raise problem(f"{names} exclude each other", at=given[1:2], about=keys, seen=False)


class DeadLetterSettings(Section):
    """Records that the destination refused for good. See `sandbox-forwarder dead-letters`."""

    max_size: Annotated[ByteSize, Within("64KiB", "1TiB")] = 256 * 1024 * 1024
    """The most that they may take in the spool; when it is reached, the sink is held."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment that is written in another way than the key it stands for.

    Attributes:
        name: The variable's; it is shown in place of the value, which may be a secret.
        value: What the file would have: a text, or texts by key.
    """

    name: str
    value: str | Mapping[str, str] = field(repr=False)


class SinkSettings(Section):
    """What every sink has. A subclass narrows `type` to a literal of its own."""

    type: str
    """The kind of sink."""
    start: Literal["oldest", "now"] = "oldest"
    """Where a new sink begins: with the oldest line still kept, or with what comes from now on."""
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    """Records that the destination refused for good are kept in the spool."""

    @classmethod
    def from_environment(
        cls, given: Collection[str], env: Mapping[str, str]
    ) -> "dict[str, str | Variable]":
        """Which keys that the file leaves out come from which variables of the environment.

        Args:
            given: The keys that stand in the file; `section.key` for those in a section.
            env: The environment. A variable that is empty counts as not set.

        Returns:
            By key, written in the same way: the variable's name, when the file could have its very
            text, or else what the file would have instead.
        """
        del given, env
        return {}

    @property
    def destination(self) -> str:
        """What no other sink of this kind may write to; empty when sharing does no harm."""
        return ""

    def may_meet(self, other: "SinkSettings") -> bool:
        """Whether both sinks, of one kind, may come to write to the same place."""
        return self.destination != "" and self.destination == other.destination

    @property
    def exactly_once(self) -> bool:
        """Whether the destination holds each line once: then none is ever sent again on request."""
        return False

    @property
    def warnings(self) -> Sequence[str]:
        """What an operator should hear of at every start, though it is allowed."""
        return ()

    @property
    def plan(self) -> DeliveryPlan:
        """How the engine delivers to it."""
        return DeliveryPlan(dead_letter_bytes=self.dead_letters.max_size)
