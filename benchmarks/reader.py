"""A reader that only counts bytes: how fast the server alone is, so that no row is about it.

`python -m benchmarks.reader PORT SANDBOX_ID` reads one stream to its end over a plain socket.
"""

from __future__ import annotations

import socket
import sys

from cwsandbox._proto.sandbox_pb2 import StreamLogsRequest

from benchmarks.catalog import SERVICE

_TAIL_BYTES = 64


def read_all(port: int, sandbox_id: str) -> int:
    """Read the whole stream and return the size of the answer.

    Raises:
        ConnectionError: The answer has no end.
    """
    request = StreamLogsRequest(sandbox_id=sandbox_id, timestamps=True).SerializeToString()
    envelope = b"\x00" + len(request).to_bytes(4, "big") + request
    head = (
        f"POST /{SERVICE}/StreamLogs HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/connect+proto\r\ncontent-length: {len(envelope)}\r\n\r\n"
    )
    buffer = bytearray(1 << 20)
    total = 0
    tail = b""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head.encode() + envelope)
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            received = sock.recv_into(buffer)
            if not received:
                raise ConnectionError("the answer was cut")
            total += received
            tail = (tail + buffer[max(0, received - _TAIL_BYTES) : received])[-_TAIL_BYTES:]
    return total


if __name__ == "__main__":
    print(read_all(int(sys.argv[1]), sys.argv[2]))
