"""The texts of lines as Loki takes them: UTF-8, and not too long. Pure."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.loki.wire import Wire

#: A byte of text becomes at most six in JSON, and an object has other members besides.
_JSON_GROWTH = 8


def utf8_texts(
    wire: Wire, texts: Sequence[bytes], metadata: list[bytes]
) -> tuple[list[bytes], list[bytes]]:
    """The lines as UTF-8, with their metadata: what is none becomes base64, and says so."""
    try:
        # No newline is inside of a text, or of a character: all are UTF-8 if this is.
        b"\n".join(texts).decode()
    except UnicodeDecodeError:
        pass
    else:
        return list(texts), metadata
    says_so = wire.field("encoding", "base64")
    lines = []
    for index, text in enumerate(texts):
        is_text = _is_utf8(text)
        lines.append(text if is_text else b64encode(text))
        metadata[index] += b"" if is_text else says_so
    return lines, metadata


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def pieces_of_text(line: bytes, max_bytes: int) -> list[bytes]:
    """A line that is too long, in pieces that are not."""
    return list(_cut(line, max_bytes))


def pieces_of_object(line: bytes, max_bytes: int) -> list[bytes]:
    """The same of a line that is an object with a text: objects with a piece of it and its number.

    They are too long all the same where the other members are, which is up to the server.
    """
    record = orjson.loads(line)
    member = "text" if "text" in record else "text_base64"
    return [
        orjson.dumps({**record, "piece": number, member: cut.decode()})
        for number, cut in enumerate(_cut(record[member].encode(), max_bytes // _JSON_GROWTH), 1)
    ]


def _cut(text: bytes, size: int) -> Iterator[bytes]:
    """Cut between characters; base64 between its groups of four, so that each piece is base64."""
    size -= size % 4
    start = 0
    while start < len(text):
        stop = start + size
        while stop < len(text) and text[stop] & 0xC0 == 0x80:  # noqa: PLR2004 - inside a character
            stop -= 1
        yield text[start:stop]
        start = stop
