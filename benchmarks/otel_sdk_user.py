"""What one would write without the forwarder: the vendor's SDK feeding the OpenTelemetry SDK.

`python -m benchmarks.otel_sdk_user SANDBOX_ID ENDPOINT QUEUE_SIZE`, written as the two SDKs' own
documentation shows: asynchronous iteration over the log, a logger provider with the batch
processor, the exporter for OTLP over HTTP with gzip. The processor drops lines when its queue is
full; the queue is made as long as the log, so that this program's figure is not one of a program
that loses lines. What is measured is then generous to it: it keeps nothing on disk, resumes
nothing, and gives lines no ids.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import datetime

from cwsandbox import Sandbox
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource


async def forward(sandbox_id: str, provider: LoggerProvider) -> None:
    """Every line of a sandbox's log as a log record, until the log ends."""
    logger = provider.get_logger("sandbox-logs")
    sandbox = await Sandbox.from_id(sandbox_id)
    async for line in sandbox.stream_logs(follow=True, timestamps=True):
        stamp, _, text = line.rstrip("\n").partition(" ")
        logger.emit(
            LogRecord(timestamp=nanoseconds(stamp), observed_timestamp=time.time_ns(), body=text)
        )


def nanoseconds(stamp: str) -> int:
    """The server's stamp, `2026-01-02T03:04:05.123456789Z`, since the epoch."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int(f"{fraction:0<9}")


def main(sandbox_id: str, endpoint: str, queue_size: int) -> None:
    """Forward one sandbox's log and flush."""
    provider = LoggerProvider(
        resource=Resource.create({"service.name": "benchmark", "cwsandbox.id": sandbox_id})
    )
    exporter = OTLPLogExporter(endpoint=endpoint, compression=Compression.Gzip)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter, max_queue_size=queue_size))
    try:
        asyncio.run(forward(sandbox_id, provider))
    finally:
        # Shutting down alone gives up after 30 s.
        provider.force_flush()
        provider.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
