"""`python -m forwarder.local`: the service as a process, for tests and for trying things out."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from forwarder.local.runner import run_local, run_local_json
from forwarder.local.settings import LocalSettings


def main(argv: list[str] | None = None) -> None:
    """Every setting is an option: `--port 0 --since-granularity second --no-compression`."""
    parser = argparse.ArgumentParser(prog="python -m forwarder.local", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line when ready")
    hints = get_type_hints(LocalSettings)
    for setting in fields(LocalSettings):
        _add_option(parser, setting.name, hints[setting.name])
    given = {
        name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None
    }
    run = run_local_json if given.pop("json") else run_local
    run(LocalSettings(**given))


def _add_option(parser: argparse.ArgumentParser, name: str, kind: Any) -> None:
    option = f"--{name.replace('_', '-')}"
    if kind is bool:
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=None)
    elif get_origin(kind) is Literal:
        parser.add_argument(option, choices=get_args(kind))
    else:
        parser.add_argument(option, type=kind)


if __name__ == "__main__":
    main()
