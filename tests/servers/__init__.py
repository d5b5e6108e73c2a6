"""Real servers for the tests of the sinks: built by `make servers`, processes of the test's own."""

from tests.servers.collector import Collector, OtlpRecord
from tests.servers.loki import Loki, LokiLine
from tests.servers.opensearch import OpenSearch
from tests.servers.process import Server, ServerStartError, eventually
from tests.servers.victoria_logs import VictoriaLogs

__all__ = [
    "Collector",
    "Loki",
    "LokiLine",
    "OpenSearch",
    "OtlpRecord",
    "Server",
    "ServerStartError",
    "VictoriaLogs",
    "eventually",
]
