"""The daemon as a process, on a sandbox's real output: to the byte, in both formats."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.fakes.daemon import file_sink, run_to_end, write_config
from tests.fakes.local import create_sandbox, read_logs
from tests.fakes.ndjson import text_log

if TYPE_CHECKING:
    from pathlib import Path

#: What a program can print: empty lines, binary, CRLF, a lone CR, long lines, no final newline.
ODD = r"""
import os
def out(data):
    while data:
        data = data[os.write(1, data):]
out(b"\n\nfirst\n\n")
out(b"crlf\r\nlone\rcr\r\n\r\n \n\t\n")
out(bytes(range(256)) + b"\n")
out("ä€😀\u2028\u0085\x0b\x0c\x1c\n".encode() + b"\xff\xfe\x80 not utf-8\n")
for length in (991, 992, 993, 994, 1023, 1024, 1025, 2047, 2048, 2049, 65536, 1 << 20):
    out(b"x" * length + b"\n")
out(b"2026-01-02T03:04:05.000000006Z looks stamped\n#gap {}\n")
for number in range(3000):
    out(b"same\n")
out(b"y" * 5000)
"""


@pytest.mark.parametrize("max_line_bytes", ["1KiB", "1MiB"])
@pytest.mark.parametrize("piece_bytes", [None, 61])
async def test_whatever_a_program_prints_is_in_the_file_to_the_byte(
    tmp_path: Path, max_line_bytes: str, piece_bytes: int | None
) -> None:
    async with LocalServer(LocalSettings()) as server:
        server.faults.piece_bytes = piece_bytes
        sandbox = await create_sandbox(
            server.base_url, server.api_key, sys.executable, ("-c", ODD), tags=["odd"]
        )
        config = write_config(
            tmp_path,
            base_url=server.base_url,
            api_key=server.api_key,
            sandboxes=[{"id": sandbox}],
            sinks={
                "text": file_sink(tmp_path / "{sandbox_id}.log"),
                "ndjson": file_sink(tmp_path / "{sandbox_id}.ndjson", "ndjson"),
            },
            source={"max_line_bytes": max_line_bytes},
        )
        code, daemon = await run_to_end(config, "--until-complete", forked=True)
        server.faults.piece_bytes = None
        expected = await read_logs(
            server.base_url, server.api_key, sandbox_id=sandbox, timestamps=True
        )
    assert code == 0, daemon.log
    assert (tmp_path / f"{sandbox}.log").read_bytes() == expected
    assert text_log((tmp_path / f"{sandbox}.ndjson").read_bytes()) == expected.rstrip(b"\n")
