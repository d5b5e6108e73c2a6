"""Formats by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sinks.s3.formats.interface import Format, FormatName


def get_format(name: FormatName, level: int) -> Format:
    """The format of this name.

    Args:
        name: Its name.
        level: How hard it compresses.

    Raises:
        SinkMisconfiguredError: What it needs is not installed.
    """
    match name:
        case "ndjson":
            from sinks.s3.formats.ndjson import NdjsonFormat

            return NdjsonFormat(level)
        case "text":
            from sinks.s3.formats.text import TextFormat

            return TextFormat(level)
        case "otlp_json":
            from sinks.s3.formats.otlp_json import OtlpJsonFormat

            return OtlpJsonFormat(level)
        case "parquet":
            from sinks.s3.formats.parquet import ParquetFormat

            return ParquetFormat(level)
