"""What the commands `archive` do. They need no daemon, and no spool either.

Everything is asked of a `sinks.archive.Archive`; which destination that is makes no difference.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from forwarder.admin.archive import (
    ListTotals,
    list_heading,
    totals_row,
    window_document,
    window_rows,
)
from forwarder.admin.parts import document_json, plural
from forwarder.archive_checks import ArchiveReport, LineLedger
from forwarder.archive_order import (
    Repeats,
    Source,
    merged,
    place,
    sources_of,
    stamp,
    without_repeats,
)
from forwarder.archive_output import JsonWriter, LineForm, LineWriter, lost_lines
from forwarder.errors import UsageError
from forwarder.spool.files import StateDir
from forwarder.spool.remembered import sink_state
from sinks.archive import ArchiveError
from sinks.closing import closing
from sinks.terminal import terminal_safe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from forwarder.archive_output import Output
    from forwarder.config import Settings
    from sinks.archive import (
        Archive,
        ArchivedObject,
        ArchivedRecord,
        ArchivedWindow,
        Selection,
    )

    #: Makes a sink's archive from what the sink remembers; None when it has none.
    ArchiveOf = Callable[[str, Mapping[str, bytes] | None], Archive | None]


def choose_archive(
    settings: Settings, archive_of: ArchiveOf, *, sink: str = "", from_store: bool = False
) -> tuple[str, Archive]:
    """The sink that is read back, and its archive; nothing is asked yet.

    Args:
        settings: The configuration.
        archive_of: See `forwarder.app.archive_of`.
        sink: Its name; the only one that can be read back when empty.
        from_store: Do without what the sink remembers in the spool.

    Raises:
        UsageError: There is no such sink, or it cannot be read back; or there are several.
        SpoolUntrustedError: The spool cannot be read.
    """
    if sink and sink not in settings.sinks:
        known = ", ".join(map(terminal_safe, settings.sinks))
        raise UsageError(f"sink {sink!r} is not in the configuration; sinks are {known}")
    names = [name for name in settings.sinks if archive_of(name, None) is not None]
    if sink and sink not in names:
        raise UsageError(f"sink {sink!r} is a {settings.sinks[sink].type}: it cannot be read back")
    if not names:
        raise UsageError("no sink of this configuration is an archive that can be read back")
    if not sink and len(names) > 1:
        raise UsageError(f"say which archive is meant: --sink {' or --sink '.join(names)}")
    chosen = sink or names[0]
    remembered = None if from_store else sink_state(StateDir(settings.state_dir), chosen)
    archive = archive_of(chosen, remembered)
    assert archive is not None, "asked before"
    return chosen, archive


async def list_windows(
    archive: Archive,
    selection: Selection,
    *,
    objects: bool,
    as_json: bool,
    output: Output,
) -> ListTotals:
    """Write what there is, window by window; nothing at all when there is nothing.

    Args:
        archive: Where to look.
        selection: What is meant.
        objects: Each object in a row of its own.
        as_json: A document a line; see `forwarder.admin.archive`.
        output: Where to.

    Raises:
        ArchiveError: A manifest is damaged or missing.
        SinkError: The store does not answer, or not as it should. So say all of these.
        BrokenPipeError: Nobody reads the output any more.
    """
    totals = ListTotals()
    async with _opened(archive), closing(archive.windows(selection)) as windows:
        async for window in windows:
            rows = [] if as_json or totals.windows else [list_heading()]
            totals.add(window)
            if as_json:
                await _write(output, document_json(window_document(window)))
                continue
            rows += window_rows(window, objects=objects)
            await _write(output, "".join(f"{row}\n" for row in rows).encode())
    if totals.windows and not as_json:
        await _write(output, f"\n{totals_row(totals)}\n".encode())
    return totals


async def cat(
    archive: Archive,
    selection: Selection,
    *,
    timestamps: bool = False,
    raw: bool = True,
    as_json: bool = False,
    output: Output,
    tell: Callable[[str], None],
    progress: Callable[[int | None], None] = lambda _: None,
) -> int:
    """Write lines in order; how many records that were.

    One container's lines come by their numbers. Those of several containers come by their stamps,
    each with its container's name in front. A line that is in the archive twice is written once.

    Args:
        archive: Where to look.
        selection: What is meant.
        timestamps: Each line with its stamp in front.
        raw: Bytes as they are, also on a terminal.
        as_json: NDJSON, with gap records in their places.
        output: Where lines go.
        tell: Told of gaps, and of lines that are there twice.
        progress: Told how many windows were found so far, and None before the first line.

    Raises:
        ArchiveError: A manifest or an object is damaged or missing.
    """
    count = 0
    async with _opened(archive):
        objects = await _objects(archive, selection, progress)
        progress(None)
        streams = sources_of(archive, objects, selection)
        repeats = [Repeats() for _ in streams]
        form = LineForm(timestamps=timestamps, containers=len(streams) > 1, raw=raw)
        writer = JsonWriter(output) if as_json else LineWriter(output, tell, form)
        async with closing(_in_order(list(streams.values()), repeats)) as chunks:
            async for chunk in chunks:
                count += len(chunk)
                # Whoever reads may pause for ever: that must not keep a signal from being heard.
                await asyncio.to_thread(writer.write, chunk)
        writer.finish()
    _tell_of(repeats, tell)
    return count


async def _objects(
    archive: Archive, selection: Selection, progress: Callable[[int | None], None]
) -> list[ArchivedObject]:
    objects: list[ArchivedObject] = []
    count = 0
    async with closing(archive.windows(selection)) as windows:
        async for window in windows:
            objects += window.objects
            count += 1
            progress(count)
    return objects


def _in_order(
    streams: list[list[Source]], repeats: list[Repeats]
) -> AsyncIterator[Sequence[ArchivedRecord]]:
    opened = [
        partial(_one_stream, sources, seen) for sources, seen in zip(streams, repeats, strict=True)
    ]
    if len(opened) == 1:
        return opened[0]()
    return merged([Source((), one) for one in opened], stamp)


def _one_stream(sources: list[Source], repeats: Repeats) -> AsyncIterator[Sequence[ArchivedRecord]]:
    return without_repeats(merged(sources, place), repeats)


def _tell_of(repeats: list[Repeats], tell: Callable[[str], None]) -> None:
    """What a person should know of lines that are there twice."""
    if lines := sum(one.lines for one in repeats):
        were = "line is" if lines == 1 else "lines are"
        tell(f"{lines:,} {were} in the archive more than once, and printed once")
    if conflicts := sum(one.conflicts for one in repeats):
        tell(
            f"{plural(conflicts, 'line number')} stand for different lines, which were all printed:"
            " more than one daemon has archived this"
        )


async def verify(
    archive: Archive,
    selection: Selection,
    *,
    quick: bool = False,
    progress: Callable[[ArchiveReport], None] = lambda _: None,
) -> ArchiveReport:
    """See that every line is there once, and that every object is what was written.

    What is damaged or missing is in the report, and the rest is looked at all the same.

    Args:
        archive: Where to look.
        selection: What is meant.
        quick: Read manifests only.
        progress: Told how far it is, object by object.

    Raises:
        SinkError: The store does not answer, or not as it should.
    """
    report = ArchiveReport(contents=not quick)
    ledger = LineLedger(report, whole=selection.since_ns is None)
    async with _opened(archive), closing(archive.windows(selection)) as windows:
        async for window in _despite_damage(windows, report):
            report.windows += 1
            for archived in window.objects:
                report.objects += 1
                report.lines += archived.lines
                report.size_bytes += archived.size_bytes
                ledger.add(archived.runs, archived.key)
                if quick or not await _read(archive, archived, ledger, report):
                    ledger.believe(archived.runs)
                progress(report)
    ledger.finish()
    return report


async def _despite_damage(
    windows: AsyncIterator[ArchivedWindow], report: ArchiveReport
) -> AsyncIterator[ArchivedWindow]:
    """The windows whose manifests can be read."""
    while True:
        try:
            window = await anext(windows)
        except StopAsyncIteration:
            return
        except ArchiveError as error:
            report.tell(str(error))
            continue
        yield window


async def _read(
    archive: Archive, archived: ArchivedObject, ledger: LineLedger, report: ArchiveReport
) -> bool:
    """Read all of an object; its gap records say what is missing. Whether that was possible."""
    try:
        async with closing(archive.records(archived)) as batches:
            async for batch in batches:
                for record in batch:
                    if record.gap is not None and (lost := lost_lines(record.gap)) is not None:
                        identity = (record.sandbox_id, record.container, record.generation)
                        ledger.explain(*identity, *lost)
    except ArchiveError as error:
        report.tell(str(error))
        return False
    return True


@asynccontextmanager
async def _opened(archive: Archive) -> AsyncIterator[None]:
    try:
        await archive.open()
        yield
    finally:
        await archive.close()


async def _write(output: Output, data: bytes) -> None:
    """Write and flush; off the loop, because whoever reads may pause for ever."""

    def write() -> None:
        output.write(data)
        output.flush()

    await asyncio.to_thread(write)
