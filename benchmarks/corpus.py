"""The benchmark's log lines: deterministic, varied, about 150 bytes each, strictly rising stamps.

Lines look like those of six kinds of services and share what real logs share (field names, paths,
message texts) while ids, addresses, amounts and durations differ on every line. Compressed with
zstd at level 1 they shrink about fivefold, which is what service logs do; a repeated line would
shrink a hundredfold and flatter whatever compresses or copies it. `python -m benchmarks.corpus`
prints the measured mean length and ratios.
"""

from __future__ import annotations

import hashlib
import mmap
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Every block has its own seed, so blocks can be made in any order and on every core.
BLOCK_LINES = 10_000
#: 2026-01-02T03:04:05Z.
FIRST_STAMP_NS = 1_767_323_045_000_000_000
#: Stamps are 1 ns to about 1 ms apart, 0.5 ms on average: one busy sandbox.
STEP_BITS = 20
BLOCK_SPAN_NS = BLOCK_LINES * ((1 << STEP_BITS) + 1)

_METHODS = ("GET", "GET", "GET", "GET", "POST", "POST", "PUT", "DELETE")
_STATUSES = (200, 200, 200, 200, 201, 204, 304, 400, 404, 500)
_PATHS = (
    "/api/v2/orders",
    "/api/v2/users/profile",
    "/api/v1/search",
    "/static/app.bundle.js",
    "/healthz",
    "/api/v2/carts/items",
    "/login",
    "/api/v1/recommendations",
)
_AGENTS = ("Mozilla/5.0 (X11; Linux x86_64)", "curl/8.5.0", "okhttp/4.12.0", "python-httpx/0.28")
_QUEUES = ("billing.invoices", "mail.outbound", "thumbnails", "search.reindex", "webhooks")
_MESSAGES = (
    "request completed",
    "cache miss, reading from the database",
    "retrying after a temporary failure",
    "connection returned to the pool",
    "token refreshed",
    "slow query",
)
_LEVELS = ("INFO", "INFO", "INFO", "INFO", "DEBUG", "DEBUG", "WARN", "ERROR")
_LOGGERS = (
    "c.e.orders.OrderService",
    "c.e.payment.Gateway",
    "o.h.engine.jdbc.spi.SqlHelper",
    "c.e.inventory.StockCache",
)


def _access_log(rng: random.Random) -> str:
    bits = rng.getrandbits(64)
    return (
        f"10.{bits & 31}.{bits >> 5 & 255}.{bits >> 13 & 255} - - "
        f'"{_METHODS[bits >> 21 & 7]} {_PATHS[bits >> 24 & 7]}?id={bits >> 27 & 0xFFFFF} HTTP/1.1" '
        f'{_STATUSES[(bits >> 47 & 0xFFFF) % 10]} {rng.getrandbits(15)} "{_AGENTS[bits >> 62]}" '
        f"rt={rng.random():.3f} up={rng.random():.3f}"
    )


def _json_log(rng: random.Random) -> str:
    bits = rng.getrandbits(64)
    return (
        f'{{"level":"{_LEVELS[bits & 7].lower()}","msg":"{_MESSAGES[(bits >> 3 & 0xFF) % 6]}",'
        f'"trace_id":"{rng.getrandbits(64):016x}","user_id":{bits >> 11 & 0x7FFFF},'
        f'"duration_ms":{rng.random() * 400:.2f},"shard":{bits >> 40 & 63}}}'
    )


def _logfmt(rng: random.Random) -> str:
    bits = rng.getrandbits(64)
    return (
        f"level={_LEVELS[bits & 7].lower()} queue={_QUEUES[(bits >> 3 & 0xFF) % 5]} "
        f"job={bits >> 11 & 0xFFFFFFFF:08x} attempt={1 + (bits >> 43 & 3)} "
        f'msg="{_MESSAGES[(bits >> 45 & 0xFF) % 6]}" elapsed={rng.random() * 12:.3f}s '
        f"pending={bits >> 53 & 0x3FF}"
    )


def _training(rng: random.Random) -> str:
    bits = rng.getrandbits(64)
    return (
        f"epoch {bits & 15} step {(bits >> 4 & 0x1FFFF) % 120_000}/120000 | "
        f"loss {1.2 + rng.random() * 2:.5f} | grad_norm {rng.random() * 3:.4f} | "
        f"lr {rng.random() * 3e-4:.3e} | tok/s {110_000 + (bits >> 21 & 0x3FFF)} | "
        f"mem {50 + rng.random() * 29:.1f}GiB | gpu{bits >> 35 & 7} {80 + (bits >> 38 & 15)}%"
    )


def _java(rng: random.Random) -> str:
    bits = rng.getrandbits(64)
    return (
        f"{_LEVELS[bits & 7]:<5} [exec-{bits >> 3 & 31}] {_LOGGERS[bits >> 8 & 3]} : "
        f"order {20_000_000 + (bits >> 10 & 0xFFFFFF)} customer {bits >> 34 & 0xFFFFF} "
        f"total {rng.random() * 900:.2f} EUR ({_MESSAGES[(bits >> 54 & 0xFF) % 6]}) "
        f"in {rng.getrandbits(9)} ms"
    )


def _database(rng: random.Random) -> str:
    bits = rng.getrandbits(64)
    return (
        f"LOG:  duration: {rng.random() * 80:.3f} ms  execute S_{bits & 63}: "
        "SELECT id, état, total FROM orders "
        f"WHERE customer = $1 AND id > {bits >> 6 & 0x3FFFFFF} LIMIT {25 << (bits >> 40 & 3)}"
    )


_KINDS: tuple[Callable[[random.Random], str], ...] = (
    _access_log,
    _access_log,
    _json_log,
    _json_log,
    _logfmt,
    _training,
    _java,
    _database,
)


def text(rng: random.Random) -> str:
    """One line's text, without stamp and newline, of a randomly chosen service."""
    return _KINDS[rng.getrandbits(3)](rng)


def stamp_text(stamp_ns: int) -> str:
    """A stamp as the server writes it: `2026-01-02T03:04:05.123456789Z`."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def block(number: int) -> bytes:
    """The lines of one block; every line of the next block has a later stamp."""
    rng = random.Random(number)
    stamp_ns = FIRST_STAMP_NS + number * BLOCK_SPAN_NS
    second = -1
    prefix = ""
    lines = []
    for _ in range(BLOCK_LINES):
        stamp_ns += 1 + rng.getrandbits(STEP_BITS)
        now, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        if now != second:
            second = now
            prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        lines.append(f"{prefix}.{nanoseconds:09d}Z {_KINDS[rng.getrandbits(3)](rng)}\n")
    return "".join(lines).encode()


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus on disk: the file is exactly what a byte-exact log file must hold in the end."""

    path: Path
    lines: int
    size_bytes: int

    def prefix_bytes(self, lines: int) -> int:
        """The size of the first so many lines."""
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as raw:
            return _end_of_line(raw, lines)

    def sha256(self, size_bytes: int) -> str:
        """The digest of the first so many bytes."""
        return file_sha256(self.path, size_bytes)


def _end_of_line(raw: mmap.mmap, lines: int) -> int:
    step = 1 << 20
    position = 0
    while (inside := raw[position : position + step].count(b"\n")) < lines:
        lines -= inside
        position += step
        if position >= len(raw):
            raise ValueError("the corpus has fewer lines than that")
    for _ in range(lines):
        position = raw.find(b"\n", position) + 1
    return position


def file_sha256(path: Path, size_bytes: int | None = None) -> str:
    """The digest of a file, or of its beginning."""
    digest = hashlib.sha256()
    left = path.stat().st_size if size_bytes is None else size_bytes
    with path.open("rb") as file:
        while left and (piece := file.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def blocks(count: int) -> Iterator[bytes]:
    """The first blocks, in order, made on every core."""
    with ProcessPoolExecutor() as pool:
        yield from pool.map(block, range(count))


def write(path: Path, lines: int) -> Corpus:
    """Write a corpus of at least so many lines, rounded up to whole blocks."""
    count = -(-lines // BLOCK_LINES)
    with path.open("wb") as file:
        for made in blocks(count):
            file.write(made)
    return Corpus(path, count * BLOCK_LINES, path.stat().st_size)


def describe(block_count: int = 20) -> str:
    """Mean length and compression ratios, measured on the first blocks."""
    import zstandard

    raw = b"".join(block(number) for number in range(block_count))
    piece = raw[: 256 * 1024]
    parts = [f"mean line {len(raw) / (block_count * BLOCK_LINES):.1f} bytes"]
    for level in (1, 3):
        whole = len(raw) / len(zstandard.compress(raw, level))
        frame = len(piece) / len(zstandard.compress(piece, level))
        parts.append(f"zstd -{level} {whole:.1f}:1, in frames of 256 KiB {frame:.1f}:1")
    return "; ".join(parts)


if __name__ == "__main__":
    print(describe())
