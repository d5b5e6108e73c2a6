"""OTLP: logs to OpenTelemetry collectors and backends, over HTTP or gRPC."""

from sinks.otlp.settings import OtlpSettings
from sinks.otlp.sink import OtlpSink

__all__ = ["OtlpSettings", "OtlpSink"]
