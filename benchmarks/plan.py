"""The rows of the table: what each measures, how much of it, and the design's figure for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks import wire
from benchmarks.results import Row, Target
from benchmarks.served import CorpusSpec, GroupSpec

MESSAGE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a run measures."""

    lines: int = 3_000_000
    vendor_lines: int = 40_000
    sdk_lines: int = 20_000
    paced_s: float = 10.0
    outage_s: float = 10.0
    idle_streams: int = 5_000
    silent_streams: int = 1_000
    short_sandboxes: int = 100_000
    window_s: float = 60.0  # as long as it takes until every silent stream was probed once

    @property
    def single_lines(self) -> int:
        """Lines where every line is a message of its own."""
        return max(1, self.lines // 5)

    @property
    def otlp_lines(self) -> int:
        """Lines that are sent on; looking at each afterwards takes longer than sending it."""
        return max(1, self.lines // 2)

    def latency_group(self) -> GroupSpec:
        return GroupSpec("latency", 100, 1_000, self.paced_s)

    def load_group(self) -> GroupSpec:
        return GroupSpec("load", 100, 10_000, self.paced_s)

    def outage_group(self) -> GroupSpec:
        """Goes on for as long as the next attempt may take after the outage, and more."""
        return GroupSpec("outage", 100, 10_000, 3 * self.outage_s)

    def short_group(self) -> GroupSpec:
        """One sandbox that ends."""
        return GroupSpec("last", 1, 10, 0.5)

    def idle_group(self) -> GroupSpec:
        return GroupSpec("idle", self.idle_streams)

    def silent_group(self) -> GroupSpec:
        return GroupSpec("silent", self.silent_streams)


QUICK = Sizes(300_000, 8_000, 4_000, 3.0, 5.0, 500, 100, 10_000, 3.0)


def with_lines(sizes: Sizes, lines: int) -> Sizes:
    """The same, with another number of lines."""
    return replace(sizes, lines=lines)


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """A row that reads one sandbox, named as the row, to its end."""

    row: Row
    reader: str
    lines: int
    message_bytes: int

    def spec(self, size_bytes: int) -> CorpusSpec:
        """The sandbox that it reads."""
        return CorpusSpec(self.row.name, size_bytes, self.message_bytes, self.over_grpc)

    @property
    def over_grpc(self) -> bool:
        """Whether its reader is the vendor's."""
        return self.reader in {"vendor", "sdk"}


def corpus_rows(sizes: Sizes) -> list[CorpusRow]:
    """The throughput rows, in the order of the table."""
    made = []
    for suffix, message_bytes, lines, what in (
        ("16k", MESSAGE_BYTES, sizes.lines, "16 KiB messages"),
        ("line", wire.ONE_LINE, sizes.single_lines, "one-line messages"),
    ):
        vendor = f"vendor-{suffix}"
        vendor_lines = min(sizes.vendor_lines, lines)
        counted = Row(f"server-{suffix}", f"server alone, {what}")
        made.append(CorpusRow(counted, "counter", lines, message_bytes))
        cli = Row(vendor, f"vendor's CLI → file, {what}")
        made.append(CorpusRow(cli, "vendor", vendor_lines, message_bytes))
        spool = Row(f"spool-{suffix}", f"source → spool, {what}", compare_with=vendor)
        made.append(CorpusRow(spool, "discard", lines, message_bytes))
        file = Row(f"file-{suffix}", f"source → file, {what}", compare_with=vendor)
        made.append(CorpusRow(file, "file", lines, message_bytes))
    made += otlp_rows(sizes)
    targets = {
        "spool-16k": Target(1_200_000, at_least=True),
        "file-16k": Target(1_000_000, at_least=True, vendor_ratio=200),
        "spool-line": Target(60_000, at_least=True),
        "otlp": Target(300_000, at_least=True, vendor_ratio=100),
        "otlp-worker": Target(300_000, at_least=True, vendor_ratio=100),
        "s3": Target(200_000, at_least=True),
    }
    for each in made:
        each.row.target = targets.get(each.row.name)
    return made


def otlp_rows(sizes: Sizes) -> list[CorpusRow]:
    """OTLP over HTTP with gzip: what one would write without us, our daemon, and an outage."""
    lines = sizes.otlp_lines
    sdk = Row("otel-sdk", "vendor's SDK → OpenTelemetry → OTLP, gzip")
    ours = Row("otlp", "source → OTLP, gzip", compare_with=sdk.name)
    helped = Row("otlp-worker", "source → OTLP, gzip, workers: 1", compare_with=sdk.name)
    down = Row("memory-down", f"memory while down, {lines:,} lines come in", "MiB")
    archive = Row("s3", "source → S3, ndjson, zstd")
    return [
        CorpusRow(sdk, "sdk", min(sizes.sdk_lines, lines), MESSAGE_BYTES),
        CorpusRow(ours, "otlp", lines, MESSAGE_BYTES),
        CorpusRow(helped, "otlp-worker", lines, MESSAGE_BYTES),
        CorpusRow(down, "otlp-down", lines, MESSAGE_BYTES),
        CorpusRow(archive, "s3", lines, MESSAGE_BYTES),
    ]


def latency_rows() -> tuple[Row, Row]:
    """Both latencies, measured in one run."""
    return (
        Row(
            "latency-spool",
            "sent → fsynced, p99, 1,000 lines/s",
            "ms",
            target=Target(250, at_least=False),
        ),
        Row(
            "latency-file",
            "sent → in the file, p99, 1,000 lines/s",
            "ms",
            target=Target(500, at_least=False),
        ),
    )


def load_row() -> Row:
    return Row(
        "memory-load",
        "peak memory, 100 streams, 10,000 lines/s",
        "MiB",
        target=Target(150, at_least=False),
    )


def catch_up_row() -> Row:
    return Row(
        "catch-up",
        "catching up, 10,000 lines/s going on",
        "x the intake",
        target=Target(2, at_least=True),
    )


def short_row(sizes: Sizes) -> Row:
    return Row(
        "short-sandboxes",
        f"{sizes.short_sandboxes:,} short sandboxes in S3",
        "objects",
        target=Target(sizes.short_sandboxes / 1_000, at_least=False),
    )


def idle_row(sizes: Sizes) -> Row:
    return Row(
        "memory-idle",
        f"peak memory, {sizes.idle_streams:,} idle streams",
        "MiB",
        target=_for_full_size(Target(400, at_least=False), sizes),
    )


def silent_row(sizes: Sizes) -> Row:
    return Row(
        "cpu-idle",
        f"CPU, {sizes.silent_streams:,} silent streams",
        "% of a core",
        target=_for_full_size(Target(3, at_least=False), sizes),
    )


def _for_full_size(target: Target, sizes: Sizes) -> Target | None:
    """The design's figure for idle streams says nothing about fewer of them."""
    full = Sizes()
    measured = (sizes.idle_streams, sizes.silent_streams)
    return target if measured == (full.idle_streams, full.silent_streams) else None
