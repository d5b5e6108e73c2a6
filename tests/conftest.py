"""Fixtures that tests of several folders share."""

from tests.servers.fixtures import (
    collector,
    loki,
    minio,
    opensearch,
    s3_server,
    s3proxy,
    session_collector,
    versitygw,
    victoria_logs,
)

__all__ = [
    "collector",
    "loki",
    "minio",
    "opensearch",
    "s3_server",
    "s3proxy",
    "session_collector",
    "versitygw",
    "victoria_logs",
]
