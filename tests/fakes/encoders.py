"""Encoders that can run in a worker process, and what they are given there."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from sinks.interface import Columns, Slice, Stream

if TYPE_CHECKING:
    from pathlib import Path


class BrokenEncoderError(Exception):
    """A bug in an encoder."""


def _columns(stamps_ns: tuple[int, ...], texts: tuple[bytes, ...], _: Slice) -> Columns:
    return Columns(stamps_ns, texts)


def picklable_slice(*texts: bytes) -> Slice:
    """A slice that can go to another process, as the engine's can."""
    stamps_ns = tuple(range(len(texts)))
    return Slice(
        stream=Stream("sbx-1", "main"),
        first_line=0,
        line_count=len(texts),
        raw=b"",
        received_ns=0,
        decode=partial(_columns, stamps_ns, texts),
    )


def process_id() -> int:
    return os.getpid()


def breaks(why: str) -> NoReturn:
    raise BrokenEncoderError(why)


def dies() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def stays(here: Path) -> NoReturn:
    """Say who we are in a pipe, and never come back."""
    here.write_text(str(os.getpid()))
    while True:
        signal.pause()
