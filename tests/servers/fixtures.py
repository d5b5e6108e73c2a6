"""Fixtures of the real servers: one process of each a session, and none where it is not built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.collector import Collector
from tests.servers.loki import Loki
from tests.servers.minio import Minio
from tests.servers.opensearch import OpenSearch
from tests.servers.s3proxy import S3Proxy
from tests.servers.versitygw import VersityGw
from tests.servers.victoria_logs import VictoriaLogs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.process import Server
    from tests.servers.s3 import S3Server


def need(server: type[Server]) -> None:
    """Skip the test where `server` is not built."""
    if not server.installed():
        pytest.skip(f"{server.__name__} is not here: `make servers` builds it")


@pytest.fixture(scope="session")
def session_collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    need(Collector)
    with Collector(tmp_path_factory.mktemp("collector")) as server:
        yield server


@pytest.fixture
def collector(session_collector: Collector) -> Collector:
    """A collector that has no records yet."""
    session_collector.forget()
    return session_collector


@pytest.fixture(scope="session")
def loki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loki]:
    """Loki with its default limits, for all tests: each uses labels of its own."""
    need(Loki)
    with Loki(tmp_path_factory.mktemp("loki")) as server:
        yield server


@pytest.fixture(scope="session")
def opensearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSearch]:
    """OpenSearch for all tests: each uses an index of its own."""
    need(OpenSearch)
    with OpenSearch(tmp_path_factory.mktemp("opensearch")) as server:
        yield server


@pytest.fixture(scope="session")
def victoria_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaLogs]:
    """VictoriaLogs for all tests: each uses a stream of its own."""
    need(VictoriaLogs)
    with VictoriaLogs(tmp_path_factory.mktemp("victoria_logs")) as server:
        yield server


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGw]:
    """The Versity gateway for all tests: each uses a bucket, or keys, of its own."""
    need(VersityGw)
    with VersityGw(tmp_path_factory.mktemp("versitygw")) as server:
        yield server


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """MinIO for all tests: each uses a bucket, or keys, of its own."""
    need(Minio)
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(scope="session")
def s3proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    """S3Proxy for all tests: each uses a bucket, or keys, of its own."""
    need(S3Proxy)
    with S3Proxy(tmp_path_factory.mktemp("s3proxy")) as server:
        yield server


@pytest.fixture(params=["versitygw", "minio", "s3proxy"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Every S3 server that is here, one after the other."""
    server: S3Server = request.getfixturevalue(request.param)
    return server
