"""Fixtures that tests of several folders share."""

from tests.servers.fixtures import (
    collector,
    loki,
    opensearch,
    session_collector,
    victoria_logs,
)

__all__ = ["collector", "loki", "opensearch", "session_collector", "victoria_logs"]
