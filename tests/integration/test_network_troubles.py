"""What is wrong with a destination or with us: held, said, mended, and nothing lost.

One daemon with all four network sinks, and one scripted server that speaks to each as it expects.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from forwarder import commands
from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from forwarder.running import load
from tests.fakes.certificates import Authority
from tests.fakes.daemon import COMMAND, running, until, write_config
from tests.fakes.local import shell_sandbox
from tests.fakes.stack import KINDS, Stack, sections
from tests.fakes.web_server import Reply, Request, WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from tests.fakes.daemon import DaemonProcess

PRINTED = 1_200


@asynccontextmanager
async def printed() -> AsyncIterator[LocalServer]:
    """A service with one sandbox, of the tag `t`, that has printed and ended."""
    async with LocalServer(LocalSettings()) as server:
        script = f"seq {PRINTED}"
        sandbox = await shell_sandbox(server.base_url, server.api_key, script, tags=["t"])
        await server.wait_ended(sandbox)
        yield server


def config_of(directory: Path, server: LocalServer, sinks: Mapping[str, Mapping[str, Any]]) -> Path:
    return write_config(
        directory,
        base_url=server.base_url,
        api_key=server.api_key,
        sandboxes=[{"tags": ["t"]}],
        sinks=sinks,
        admin={"listen": "127.0.0.1:0"},
    )


async def asked(daemon: DaemonProcess) -> httpx.AsyncClient:
    """A client of its admin endpoint."""
    event = await daemon.event("admin endpoint")
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{event['port']}", trust_env=False)


def sinks_of(config: Path) -> dict[str, Any]:
    """What `status` says of the sinks."""
    document: Any = commands.status(load(config))
    return {sink["name"]: sink for sink in document["sinks"]}


async def checked(config: Path) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, verdicts and texts of `check`."""
    process = await asyncio.create_subprocess_exec(
        *(str(COMMAND), "check", "--json", "--config", str(config)), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    checks = json.loads(said)["checks"]
    return process.returncode, {one["name"]: (one["verdict"], one["text"]) for one in checks}


async def everything_arrives(config: Path, daemon: DaemonProcess, stack: Stack) -> None:
    """It goes on by itself, with nothing lost, doubled, dropped or set aside."""
    await until(lambda: stack.holds(PRINTED), "everything everywhere")
    daemon.terminate()
    assert await daemon.wait() == 0, daemon.log
    for sink in sinks_of(config).values():
        assert len(stack.taken[sink["name"]]) == sink["delivered"] == PRINTED, sink
        assert (sink["pending"], sink["dropped"], sink["dead_lettered"]) == (0, 0, 0), sink


async def test_refused_credentials_hold_and_a_new_token_in_the_file_goes_on_by_itself(
    tmp_path: Path,
) -> None:
    stack, token, told = Stack(), tmp_path / "token", "it refuses our credentials"
    token.write_text("expired-token\n")

    def says(request: Request) -> Reply | None:
        good = request.headers.get("authorization") == "Bearer rotated-token"
        return None if good else Reply(401, body=b"the token expired")

    stack.says = says
    async with printed() as server, WebServer(handler=stack) as web:
        config = config_of(tmp_path, server, sections(web.url, bearer_token_file=str(token)))
        code, verdicts = await checked(config)
        assert code == 77
        assert {verdicts[kind][0] for kind in KINDS} == {"refused"}
        async with running(config, forked=True) as daemon, await asked(daemon) as admin:
            for kind in KINDS:
                await daemon.event("sink held", sink=kind, detail=told)
            await until(lambda: all(sink["pending"] for sink in sinks_of(config).values()))
            for sink in sinks_of(config).values():
                assert (sink["state"], sink["dead_lettered"], sink["dropped"]) == ("held", 0, 0)
                assert told in sink["detail"]
            # Others may be well, and a new start would mend nothing.
            assert (await admin.get("/readyz")).status_code == 200
            metrics = (await admin.get("/metrics")).text
            for kind in KINDS:
                assert f'sandbox_forwarder_sink_state{{sink="{kind}",state="held"}} 1.0' in metrics
            token.write_text("rotated-token\n")
            await everything_arrives(config, daemon, stack)
    assert "expired-token" not in daemon.log


#: Answers that are not the service's, and what an operator reads.
STRANGERS = {
    "login": (
        Reply(headers={"content-type": "text/html"}, body=b"<!doctype html><title>Log in</title>"),
        (
            "{} answers with a web page, as a login or a proxy does, and not with the service:"
            " mend the address or the credentials"
        ),
    ),
    "redirect": (
        Reply(302, {"location": "https://elsewhere.example/login?next=1"}),
        "{} sends us to https://elsewhere.example, which is not followed: mend the address",
    ),
    "absent": (
        Reply(404, body=b"no such path"),
        "{} answered 404: no such path; mend the address",
    ),
}


def always(reply: Reply) -> Callable[[Request], Reply]:
    """The same answer to every request."""
    return lambda _: reply


async def test_who_is_not_the_service_holds_each_sink_and_is_told_what_to_do(
    tmp_path: Path,
) -> None:
    stacks = {name: Stack() for name in STRANGERS}
    async with AsyncExitStack() as places:
        server = await places.enter_async_context(printed())
        sinks: dict[str, Any] = {}
        told: dict[str, str] = {}
        for name, (reply, text) in STRANGERS.items():
            stacks[name].says = always(reply)
            web = await places.enter_async_context(WebServer(handler=stacks[name]))
            mine = {f"{name}-{kind}": one for kind, one in sections(web.url).items()}
            sinks |= mine
            told |= dict.fromkeys(mine, text.format(web.url))
        config = config_of(tmp_path, server, sinks)
        code, verdicts = await checked(config)
        assert code == 69
        # Of an endpoint of any kind nobody knows what it says to a question.
        asked = {name: text for name, text in told.items() if not name.endswith("-http")}
        assert {name: verdicts[name] for name in asked} == {
            name: ("misconfigured", text) for name, text in asked.items()
        }
        async with running(config, forked=True) as daemon:
            for name, text in told.items():
                await daemon.event("sink held", sink=name, detail=text)
            await until(lambda: all(one["state"] == "held" for one in sinks_of(config).values()))
            assert {name: one["detail"] for name, one in sinks_of(config).items()} == told
            for stack in stacks.values():
                stack.says = lambda _: None
            await until(lambda: all(stack.holds(PRINTED) for stack in stacks.values()))
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        assert {one["delivered"] for one in sinks_of(config).values()} == {PRINTED}


async def test_a_certificate_that_does_not_verify_holds_until_the_file_of_authorities_is_mended(
    tmp_path: Path,
) -> None:
    stack, ours, theirs = Stack(), Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(ours.file.read_bytes())
    context = theirs.server_context(theirs.issue("server"))
    async with printed() as server, WebServer(handler=stack, tls=context) as web:
        config = config_of(tmp_path, server, sections(web.url, tls={"ca_file": str(ca_file)}))
        told = f"the certificate of {web.url} does not verify: "
        advice = "; set tls.ca_file to its authority's certificate"
        code, verdicts = await checked(config)
        assert code == 69
        for kind in KINDS:
            verdict, text = verdicts[kind]
            assert (verdict, text.startswith(told), text.endswith(advice)) == (
                *("misconfigured", True, True),
            ), text
        async with running(config, forked=True) as daemon:
            for kind in KINDS:
                event = await daemon.event("sink held", sink=kind, detail=told)
                assert event["detail"].endswith(advice)
            assert web.requests == []
            ca_file.write_bytes(theirs.file.read_bytes())
            await everything_arrives(config, daemon, stack)
