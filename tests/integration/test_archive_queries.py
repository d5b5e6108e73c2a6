"""DuckDB and pyarrow read an archive's objects where they lie, and only those that are asked for.

The queries are those of `docs/sinks/s3.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sinks.interface import Stream
from sinks.s3.formats.registry import get_format
from sinks.testing import gap_of, slice_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sinks.interface import Slice
    from sinks.s3.formats.interface import Compression, FormatName

duckdb = pytest.importorskip("duckdb")
dataset = pytest.importorskip("pyarrow.dataset")
pa = pytest.importorskip("pyarrow")

KINDS: tuple[tuple[FormatName, Compression], ...] = (
    ("ndjson", "zstd"),
    ("ndjson", "gzip"),
    ("ndjson", "none"),
    ("parquet", "zstd"),
    ("parquet", "gzip"),
)
HOUR_NS = 3_600_000_000_000
SIX_PM_NS = 1_795_456_800_000_000_000  # 2026-11-23T18:00:00Z
#: Enough for several blocks of a compressor, and several row groups.
LINES = 70_000
A = Stream("sbx-a", "main", tags=("training",), attributes={"service.name": "trainer"})
B = Stream("sbx-b", "main")

VIEW_OF_NDJSON = """
CREATE VIEW logs AS SELECT * FROM read_json(
  '{root}/logs/dt=*/hour=*/*.ndjson*',
  format = 'newline_delimited', hive_partitioning = true,
  columns = {{time: 'TIMESTAMP_NS', sandbox_id: 'VARCHAR', container: 'VARCHAR',
    display_name: 'VARCHAR', tags: 'VARCHAR[]', attributes: 'MAP(VARCHAR, VARCHAR)',
    generation: 'INTEGER', line: 'BIGINT', part: 'INTEGER', text: 'VARCHAR',
    text_base64: 'VARCHAR', gap: 'JSON'}})
"""
VIEW_OF_PARQUET = """
CREATE VIEW logs AS SELECT * FROM read_parquet(
  '{root}/logs/dt=*/hour=*/*.parquet', hive_partitioning = true)
"""
LINES_OF_A_SANDBOX = """
SELECT time, text FROM logs
WHERE dt = '2026-11-23' AND hour = 18 AND sandbox_id = 'sbx-b' AND gap IS NULL
ORDER BY container, coalesce(generation, 0), line, coalesce(part, 0)
"""
ERRORS_BY_SERVICE = """
SELECT attributes['service.name'] AS service, count(*) AS errors FROM logs
WHERE dt = '2026-11-23' AND hour = 18 AND text LIKE 'ERROR%' GROUP BY service
"""
GAPS = """
SELECT sandbox_id, container, gap ->> 'cause' AS cause, gap ->> 'missing_bytes' AS bytes FROM logs
WHERE dt = '2026-11-23' AND hour = 18 AND gap IS NOT NULL
"""


def an_hour(first_ns: int) -> Iterable[Slice]:
    """Lines of two sandboxes, some of them errors, one no UTF-8; and a gap."""
    texts = [b"%s step %d" % (b"ERROR" if at % 1000 == 0 else b"INFO", at) for at in range(LINES)]
    for start in range(0, LINES, 700):
        lines = [(first_ns + at, texts[at]) for at in range(start, start + 700)]
        yield slice_of(lines, stream=A, first_line=start)
    yield gap_of(stream=A, first_line=LINES, from_stamp_ns=first_ns + LINES, missing_bytes=12)
    yield slice_of([(first_ns + 3, "b one"), (first_ns + 1, b"\xff")], stream=B)
    yield slice_of([(first_ns + 2, "restarted")], stream=B, generation=1)


def put(path: Path, name: FormatName, compression: Compression, slices: Iterable[Slice]) -> None:
    form = get_format(name, 3)
    path.mkdir(parents=True)
    with (path / ("object" + form.extension(compression))).open("xb") as file:
        writer = form.writer(file, compression)
        for source in slices:
            writer.add(form.encode(source, 0, source.line_count))
        writer.finish()


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of logs, a manifest, and an hour that nobody can read."""
    name, compression = request.param
    root: Path = tmp_path_factory.mktemp("archive") / name
    day = root / "logs" / "dt=2026-11-23"
    for hour in (18, 19):
        put(day / f"hour={hour}", name, compression, an_hour(SIX_PM_NS + (hour - 18) * HOUR_NS))
    poisoned = day / "hour=20"
    poisoned.mkdir()
    extension = get_format(name, 3).extension(compression)
    (poisoned / f"object{extension}").write_bytes(b"no object at all")
    manifests = root / "logs" / "_manifests" / "dt=2026-11-23"
    manifests.mkdir(parents=True)
    (manifests / "window.json").write_bytes(b'{"version":1}')
    return root


@pytest.fixture
def duck(archive: Path) -> Any:
    """A connection with the view `logs`."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    view = VIEW_OF_PARQUET if archive.name == "parquet" else VIEW_OF_NDJSON
    connection.execute(view.format(root=archive))
    yield connection
    connection.close()


def test_duckdb_reads_the_lines_of_a_sandbox_in_their_order(duck: Any, archive: Path) -> None:
    duck.execute(f"CREATE TEMP TABLE found AS {LINES_OF_A_SANDBOX}")
    assert duck.execute("SELECT epoch_ns(time), text FROM found").fetchall() == [
        (SIX_PM_NS + 3, "b one"),
        (SIX_PM_NS + 1, None),
        (SIX_PM_NS + 2, "restarted"),
    ]
    odd = "text_bytes" if archive.name == "parquet" else "from_base64(text_base64)"
    found = duck.execute(f"SELECT {odd} FROM logs WHERE hour = 18 AND {odd} IS NOT NULL")
    assert found.fetchall() == [(b"\xff",)]


@pytest.mark.parametrize("archive", [kind for kind in KINDS if kind[0] == "parquet"], indirect=True)
@pytest.mark.parametrize(
    ("column", "without"), [("gap", LINES + 3), ("text_bytes", LINES + 3), ("text", 2), ("line", 1)]
)
def test_duckdb_finds_what_has_no_value(duck: Any, column: str, without: int) -> None:
    counted = duck.execute(f"SELECT count(*) FROM logs WHERE hour = 18 AND {column} IS NULL")
    assert counted.fetchall() == [(without,)]


def test_duckdb_reads_every_line_of_an_object_once(duck: Any) -> None:
    counted = duck.execute(
        "SELECT hour, count(*), count(DISTINCT line), sum(line) FROM logs"
        " WHERE hour IN (18, 19) AND sandbox_id = 'sbx-a' AND gap IS NULL GROUP BY hour ORDER BY 1"
    )
    total = LINES * (LINES - 1) // 2
    assert counted.fetchall() == [(hour, LINES, LINES, total) for hour in (18, 19)]


def test_duckdb_counts_errors_by_an_attribute(duck: Any) -> None:
    assert duck.execute(ERRORS_BY_SERVICE).fetchall() == [("trainer", LINES // 1000)]


def test_duckdb_finds_the_gaps(duck: Any) -> None:
    assert duck.execute(GAPS).fetchall() == [("sbx-a", "main", "anchor_lost", "12")]


def test_duckdb_opens_no_object_of_another_hour(duck: Any) -> None:
    for query in (LINES_OF_A_SANDBOX, ERRORS_BY_SERVICE, GAPS):
        plan = duck.execute(f"EXPLAIN {query}").fetchall()[0][1]
        assert "Scanning Files: 1/3" in plan
    with pytest.raises(duckdb.Error):
        duck.execute(ERRORS_BY_SERVICE.replace("hour = 18", "hour = 20")).fetchall()


@pytest.mark.parametrize("archive", [kind for kind in KINDS if kind[0] == "parquet"], indirect=True)
def test_pyarrow_reads_only_what_the_partitions_and_statistics_let_through(archive: Path) -> None:
    partitions = pa.schema([("dt", pa.string()), ("hour", pa.int32())])
    logs = dataset.dataset(
        archive / "logs", partitioning=dataset.partitioning(partitions, flavor="hive")
    )
    field = dataset.field
    asked = (field("dt") == "2026-11-23") & (field("hour") == 18)
    (fragment,) = logs.get_fragments(filter=asked)
    assert "/hour=18/" in fragment.path
    errors = logs.to_table(columns=["line", "text"], filter=asked & (field("line") == LINES - 1))
    assert errors.to_pylist() == [{"line": LINES - 1, "text": f"INFO step {LINES - 1}"}]
    assert len(fragment.row_groups) == 2
    assert len(fragment.subset(field("line") == LINES - 1).row_groups) == 1
    with pytest.raises(pa.ArrowInvalid):
        logs.to_table(filter=field("hour") == 20)
