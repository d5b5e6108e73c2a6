"""Real servers for the tests of the sinks: built by `make servers`, processes of the test's own."""

from tests.servers.collector import Collector, OtlpRecord
from tests.servers.loki import Loki, LokiLine
from tests.servers.minio import Minio
from tests.servers.opensearch import OpenSearch
from tests.servers.process import Server, ServerStartError, eventually
from tests.servers.s3 import S3Server
from tests.servers.s3proxy import S3Proxy
from tests.servers.versitygw import VersityGw
from tests.servers.victoria_logs import VictoriaLogs

__all__ = [
    "Collector",
    "Loki",
    "LokiLine",
    "Minio",
    "OpenSearch",
    "OtlpRecord",
    "S3Proxy",
    "S3Server",
    "Server",
    "ServerStartError",
    "VersityGw",
    "VictoriaLogs",
    "eventually",
]
