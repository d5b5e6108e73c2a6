"""An S3 server that does what real ones do rarely, on cue or by chance.

`S3Server` lives in a test. `python -m tests.fakes.s3_server` is one that outlives whatever else is
killed: it prints its address on a line, and ends when its standard input does. Questions of tests
are never answered with a fault: `GET /-/state` (JSON), `GET /-/object/<key>`, and `POST /-/calm`,
which ends the faults.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args
from urllib.parse import unquote

from tests.fakes.s3_bucket import Conditions, FakeBucket, Stored
from tests.fakes.s3_signatures import error
from tests.fakes.web_server import Reply, Request, WebServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

S3Fault: TypeAlias = Literal[
    "",  # none, for a plan in which only a later request meets one
    "landed_then_timeout",  # it is done, and nothing is answered
    "landed_then_reset",  # it is done, and the connection is reset
    "landed_then_cut",  # it is done, and the answer breaks off
    "timeout",  # it is not done, and nothing is answered
    "reset",  # the connection is reset before the body is read
    "deaf",  # the body is never read
    "stall_in_answer",  # it is done, and the answer's body stops half way
    "endless_error",  # a 500 whose body has no end
    "error_in_200",  # 200, and an error behind some white space
    "no_etag",  # it is done, and the answer does not name what was written
    "slow_down",
    "internal_error",
    "conflict",  # 409: another writer at the same moment
    "skewed",
    "expired_token",
    "moved",  # 301: another region
    "early_refusal",  # 403, while the body is still coming
    "early_refusal_and_gone",  # the same, and the server reads nothing and leaves
    "foreign",  # somebody else has written this key just before
]

#: What may happen at any time, and costs no waiting.
PASSING: tuple[S3Fault, ...] = (
    *("landed_then_reset", "landed_then_cut", "reset", "error_in_200", "no_etag"),
    *("slow_down", "internal_error", "conflict"),
)

#: What no store answers to a question.
_OF_WRITES: frozenset[S3Fault] = frozenset({"error_in_200", "no_etag", "conflict"})

_EARLY: Mapping[S3Fault, Reply] = {
    "reset": Reply(fault="reset"),
    "deaf": Reply(fault="deaf"),
    "early_refusal": replace(error(403, "AccessDenied", "Access Denied"), fault="early_answer"),
    "early_refusal_and_gone": replace(
        error(403, "AccessDenied", "Access Denied"), fault="early_answer_and_gone"
    ),
}
_IN_PLACE: Mapping[S3Fault, Reply] = {
    "timeout": Reply(fault="stall"),
    "endless_error": Reply(500, fault="endless_body"),
    "error_in_200": replace(error(200, "InternalError", "We met an error"), status=200),
    "slow_down": error(503, "SlowDown", "Please reduce your request rate"),
    "internal_error": error(500, "InternalError", "We met an error. Please try again"),
    "conflict": error(409, "ConditionalRequestConflict", "A conflicting operation is going on"),
    "skewed": error(403, "RequestTimeTooSkewed", "The difference is too large"),
    "expired_token": error(400, "ExpiredToken", "The provided token has expired"),
    "moved": error(301, "PermanentRedirect", "The bucket must be addressed elsewhere"),
}


@dataclass(frozen=True)
class _Planned:
    fault: S3Fault
    method: str


class S3Server(WebServer):
    """A `FakeBucket` on 127.0.0.1 for as long as the `async with` lasts.

    Args:
        name: The bucket's name.
        rate: So many requests of one meet a fault by chance.
        seed: Of chance.
        kinds: The faults that chance has to choose from.
        conditions: What the store makes of `If-None-Match: *`.
        keys: Secret keys by access key; when there are any, every request has to be signed.
        page_size: So many keys has a page of a list.
        tls: Speak TLS with this context.
        port: Listen on this port; 0 for a free one.

    Attributes:
        bucket: What it holds.
        met: How often each fault happened.
        rate: As above; a test may change it.
    """

    def __init__(
        self,
        name: str = "bucket",
        *,
        rate: float = 0.0,
        seed: int = 0,
        kinds: Sequence[S3Fault] = PASSING,
        conditions: Conditions = "honoured",
        keys: Mapping[str, str] | None = None,
        page_size: int = 1000,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(handler=self._handle, tls=tls, port=port)
        self.bucket = FakeBucket(name, conditions=conditions, keys=keys, page_size=page_size)
        self.met: Counter[S3Fault] = Counter()
        self.rate = rate
        self._chance = random.Random(seed)
        self._kinds = tuple(kinds)
        self._plan: list[_Planned] = []
        self._chosen: ContextVar[S3Fault | None] = ContextVar("chosen")

    def fail(self, *faults: S3Fault, on: str = "") -> None:
        """Meet the next requests of this method, or of any, with these faults, one each."""
        self._plan += [_Planned(fault, on) for fault in faults]

    def _scripted(self, head: Request) -> Reply | None:
        fault = self._choose(head)
        if fault is not None:
            self.met[fault] += 1
        self._chosen.set(fault)
        return super()._scripted(head) if fault is None else _EARLY.get(fault)

    def _choose(self, head: Request) -> S3Fault | None:
        if head.path.startswith("/-/"):
            return None
        for number, planned in enumerate(self._plan):
            if planned.method in {"", head.method}:
                return self._plan.pop(number).fault or None
        if self._chance.random() >= self.rate:
            return None
        writes = head.method in {"PUT", "POST"}
        return self._chance.choice([one for one in self._kinds if writes or one not in _OF_WRITES])

    def _handle(self, request: Request) -> Reply:
        if request.path.startswith("/-/"):
            return self._tell_of(request)
        fault = self._chosen.get()
        if fault is not None and fault in _IN_PLACE:
            return _worded(_IN_PLACE[fault], fault, self.bucket.region)
        if fault == "foreign":
            key = unquote(request.path.partition("?")[0]).removeprefix(f"/{self.bucket.name}/")
            self.bucket.objects[key] = Stored(b"somebody else's")
        return _after(self.bucket.answer(request), fault)

    def _tell_of(self, request: Request) -> Reply:
        bucket = self.bucket
        if request.path == "/-/calm":
            self.rate = 0.0
            self._plan.clear()
            return Reply(204)
        if request.path.startswith("/-/object/"):
            found = bucket.objects.get(unquote(request.path.removeprefix("/-/object/")))
            return Reply(404) if found is None else Reply(200, found.headers, found.body)
        state = {
            "objects": {key: len(stored.body) for key, stored in sorted(bucket.objects.items())},
            "uploads": sorted(upload.key for upload in bucket.uploads.values()),
            "overwritten": bucket.overwritten,
            "requests": len(self.requests),
            "faults": dict(self.met),
        }
        return Reply(200, {"content-type": "application/json"}, json.dumps(state).encode())


def _worded(reply: Reply, fault: S3Fault, region: str) -> Reply:
    if fault == "moved":
        return replace(reply, headers={**reply.headers, "x-amz-bucket-region": region})
    if fault == "slow_down":
        return replace(reply, headers={**reply.headers, "retry-after": "0"})
    if fault == "error_in_200":
        return replace(reply, body=b"  \n  " + reply.body)
    return reply


def _after(reply: Reply, fault: S3Fault | None) -> Reply:
    """What becomes of the answer to something that was done."""
    match fault:
        case "landed_then_timeout":
            return replace(reply, fault="stall")
        case "landed_then_reset":
            return replace(reply, fault="reset_after_body_taken")
        case "landed_then_cut":
            # An answer without a body would be whole without it.
            return replace(reply, body=reply.body or b"{}", fault="cut_answer")
        case "stall_in_answer":
            return replace(reply, body=reply.body or b"{}", fault="stall_in_body")
        case "no_etag":
            headers = {k: v for k, v in reply.headers.items() if k != "etag"}
            return replace(reply, headers=headers, body=b"")
    return reply


async def _serve(**options: Any) -> None:
    async with S3Server(**options) as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", default="bucket")
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default=",".join(PASSING), help="such as reset,slow_down")
    parser.add_argument("--conditions", choices=get_args(Conditions), default="honoured")
    parser.add_argument("--key", action="append", default=[], help="access key and secret: A:S")
    given = parser.parse_args()
    asyncio.run(
        _serve(
            name=given.bucket,
            port=given.port,
            rate=given.rate,
            seed=given.seed,
            kinds=[fault for fault in get_args(S3Fault) if fault in given.faults.split(",")],
            conditions=given.conditions,
            keys=dict(pair.split(":", 1) for pair in given.key),
        )
    )


if __name__ == "__main__":
    main()
