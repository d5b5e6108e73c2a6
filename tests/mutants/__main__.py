"""Break the code in every way that the catalog knows, and see that the named test notices.

`python -m tests.mutants [NAME ...]`: copies the tree, changes one place, runs one test; the test
must fail there, and pass where nothing was changed. Exit 1 when a mutant survives.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutants.catalog import MUTANTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mutants.catalog import Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("forwarder", "sinks", "tests", "config", "pyproject.toml")
DEADLINE_S = 300.0
BASELINE_S = 1800.0

OPTIONS = ("--timeout=60", "-p", "no:cacheprovider", "-p", "tests.mutants.no_shrinking")

#: pytest's exit code for "tests were run and some failed"; anything else is no verdict.
FAILED = 1


class NotApplicableError(Exception):
    """The code has changed, and the mutant no longer fits into it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    caught: bool
    seconds: float
    words: str


def copy_tree(directory: Path) -> None:
    """A copy of everything that the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, directory / name, ignore=ignored)
        else:
            shutil.copy(source, directory / name)


def apply(mutant: Mutant, directory: Path) -> None:
    """Change the one place.

    Raises:
        NotApplicableError: It is not there exactly once.
    """
    path = directory / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.code) != 1:
        found = text.count(mutant.code)
        raise NotApplicableError(f"{mutant.file} has the code of {mutant.name!r} {found} times")
    path.write_text(text.replace(mutant.code, mutant.bug), "utf-8")


async def run_test(
    directory: Path, tests: Sequence[str], deadline_s: float = DEADLINE_S
) -> tuple[int, str]:
    """Run these tests there; the exit code, and what was said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-x", *OPTIONS, *tests),
        cwd=directory,
        # The copy, not the installed tree: what stands on the path goes first.
        env={**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(deadline_s):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return FAILED, f"stopped after {deadline_s:g} s"
    assert process.returncode is not None
    return process.returncode, output.decode("utf-8", "replace")


async def judge(mutant: Mutant) -> Verdict:
    """Seed one bug and run its test."""
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        directory = Path(name)
        copy_tree(directory)
        apply(mutant, directory)
        code, output = await run_test(directory, [mutant.test])
    words = "caught" if code == FAILED else "SURVIVED" if code == 0 else f"no verdict: {output}"
    return Verdict(mutant, code == FAILED, time.monotonic() - begun_s, words)


async def check_unchanged(mutants: Sequence[Mutant]) -> bool:
    """Whether every named test passes where nothing was changed."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_tree(Path(name))
        tests = sorted({mutant.test for mutant in mutants})
        code, output = await run_test(Path(name), tests, BASELINE_S)
    if code:
        print(output)
    return code == 0


async def judge_all(mutants: Sequence[Mutant], jobs: int) -> list[Verdict]:
    """Judge them, some at a time."""
    turns = asyncio.Semaphore(jobs)

    async def one(mutant: Mutant) -> Verdict:
        async with turns:
            verdict = await judge(mutant)
        print(f"{verdict.words:10} {verdict.seconds:6.1f} s  {mutant.name}", flush=True)
        return verdict

    return await asyncio.gather(*map(one, mutants))


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of the mutants; all of them")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    mutants = [
        one for one in MUTANTS if not given.names or any(part in one.name for part in given.names)
    ]
    if not asyncio.run(check_unchanged(mutants)):
        print("the tests fail without any bug: nothing can be said")
        return 1
    verdicts = asyncio.run(judge_all(mutants, given.jobs))
    caught = sum(verdict.caught for verdict in verdicts)
    print(f"{caught} of {len(verdicts)} seeded bugs caught")
    return 0 if caught == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
