"""Loki: few labels, everything else in structured metadata."""

from sinks.loki.settings import LokiSettings
from sinks.loki.sink import LokiSink

__all__ = ["LokiSettings", "LokiSink"]
