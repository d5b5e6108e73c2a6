"""The settings of the file sink."""

# Not `from __future__ import annotations`: pydantic reads the annotations at run time.

import os
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sinks.files.layout import Format
from sinks.files.output import UNCONFIRMED
from sinks.files.rotation import shapes_put_away
from sinks.settings import ByteSize, Duration, Section, SinkSettings, Within, problem
from sinks.shapes import Shape
from sinks.template import Template, TemplateError

_OWNER = 0o600
_EXECUTE = 0o111

Compression = Literal["none", "gzip", "zstd"]


def _check_template(text: str) -> str:
    try:
        Template.parse(text)
    except TemplateError as error:
        raise problem(str(error)) from error
    return text


def _check_mode(value: object) -> object:
    """A number is refused: YAML reads an unquoted 0640 as 640 or as 416, depending on its age."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise problem('expected an octal file mode in quotes, such as "0640"')
    mode = int(value, 8)
    if mode & _OWNER != _OWNER or mode & _EXECUTE:
        raise problem("the mode must let the owner read and write, and nobody execute")
    return value


class RotateSettings(Section):
    """When a file is put away under a number of its own, and a new one begun."""

    size: Annotated[ByteSize, Within("1KiB", "16TiB")] | None = None
    """When it has this size; the last batch may take it beyond."""
    every: Annotated[Duration, Within("1m", "366d")] | None = None
    """When its lines come to a new period, by their own stamps in UTC: with `1d` at midnight."""
    at_end: bool = False
    """When the stream that it belongs to has ended."""

    @property
    def is_on(self) -> bool:
        """Whether there is any reason to rotate."""
        return self.size is not None or self.every is not None or self.at_end


class KeepSettings(Section):
    """How much of what was put away stays; the rest is deleted."""

    count: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """So many files of each path."""
    age: Annotated[Duration, Within("1m", "36500d")] | None = None
    """Files whose newest line is not older than this, compared with the newest line written."""


class FileSettings(SinkSettings):
    """Files on this machine, one line after the other, exactly once."""

    type: Literal["file"] = "file"
    """The kind of sink."""
    path: Annotated[str, AfterValidator(_check_template)]
    """Where lines go. `{sandbox_id}`, `{container}`, `{display_name}`, `{date}` and `{hour}` (UTC,
    from the line's stamp) are replaced, made safe for a file name; directories are created."""
    format: Format = "text"
    """`text`: each line exactly as the server sent it. `ndjson`: one JSON object a line."""
    mode: Annotated[str, BeforeValidator(_check_mode)] = "0640"
    """The mode of new files, octal, in quotes. New directories get search where this has read."""
    max_open_files: Annotated[int, Field(ge=1, le=65536)] = 256
    """How many files are kept open; the one used longest ago is closed first."""
    rotate: RotateSettings = RotateSettings()
    """When files are put away as `<path>.000001`, `<path>.000002` and so on; never by default."""
    compress: Compression = "none"
    """What files that were put away are compressed with."""
    keep: KeepSettings = KeepSettings()
    """How many of the files that were put away stay, and how long; by default all, for ever."""

    @property
    def destination(self) -> str:
        """The absolute template of the path: two sinks of one destination would mix their lines."""
        here = os.getcwd().replace("{", "{{").replace("}", "}}")  # noqa: PTH109 - text, not a Path
        return os.path.normpath(os.path.join(here, self.path))  # noqa: PTH118 - the same

    @property
    def exactly_once(self) -> bool:
        """A file has each line once."""
        return True

    def may_meet(self, other: SinkSettings) -> bool:
        """Whether some values make both sinks name the same file, numbered files among them."""
        return isinstance(other, FileSettings) and any(
            ours.may_meet(theirs) for ours in _shapes(self) for theirs in _shapes(other)
        )

    @model_validator(mode="after")
    def _ends_in_text_of_its_own(self) -> Self:
        shape = Template.parse(self.destination).shape
        if self.rotate.is_on and any(map(shape.may_meet, shapes_put_away(shape))):
            text = (
                'with "rotate", the path must end in text of its own, such as .log, and not in a '
                "value, a number, .gz or .zst: it could be the name of a file that was put away, "
                "such as a.000001"
            )
            raise problem(text, at=["path"], about=["path", "rotate"], seen=False)
        return self

    @model_validator(mode="after")
    def _needs_rotation(self) -> Self:
        if self.rotate.is_on:
            return self
        for key, is_set in {
            "compress": self.compress != "none",
            "keep": self.keep != KeepSettings(),
        }.items():
            if is_set:
                text = f'"{key}" is about files that were put away: set "rotate", too'
                raise problem(text, at=[key], about=[key, "rotate"], seen=False)
        return self


def _shapes(settings: FileSettings) -> list[Shape]:
    """All the names that a sink of these settings may give to a file."""
    shape = Template.parse(settings.destination).shape
    numbered = shapes_put_away(shape) if settings.rotate.is_on else []
    return [shape, shape.text(UNCONFIRMED), *numbered]
