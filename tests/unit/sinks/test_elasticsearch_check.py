"""What `check` finds out, and that it writes nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sinks.elasticsearch import ElasticsearchSettings, ElasticsearchSink
from sinks.interface import Checkable, SinkMisconfiguredError, SinkUnavailableError
from tests.fakes.web_server import Reply, Request, WebServer

OPENSEARCH = {"version": {"distribution": "opensearch", "number": "2.19.6"}}
ELASTICSEARCH = {"version": {"number": "9.1.0"}, "tagline": "You Know, for Search"}
PRIVILEGES = "/_security/user/_has_privileges"
STREAM = "/_data_stream/logs-sandbox-default"


def says(value: object, status: int = 200) -> Reply:
    return Reply(status, body=orjson.dumps(value))


async def found(paths: dict[str, Reply], **given: Any) -> str:
    """What `check` says to a server that has these paths, and 404 for all others."""

    def handler(request: Request) -> Reply:
        assert request.method in {"GET", "HEAD"} or request.path.endswith(PRIVILEGES)
        return paths.get(request.path, says({"error": "no"}, 404))

    async with WebServer(handler=handler) as server:
        prefix = given.pop("prefix", "")
        settings = {"endpoint": server.url + prefix, **given}
        sink = ElasticsearchSink("es", ElasticsearchSettings.model_validate(settings))
        assert isinstance(sink, Checkable)
        return await sink.check()


async def test_it_says_which_server_answers() -> None:
    assert await found({"/": says(OPENSEARCH)}, index="a") == "OpenSearch 2.19.6 answers"
    assert await found({"/": says(ELASTICSEARCH)}, index="a") == "Elasticsearch 9.1.0 answers"
    other = {"/x/": says({"version": {"number": "8.9.0"}})}
    assert await found(other, prefix="/x?a=b") == "version 8.9.0 answers"


async def test_it_says_whether_the_data_stream_is_there() -> None:
    root = {"/": says(OPENSEARCH)}
    there = await found({**root, STREAM: says({"data_streams": [{}]})})
    assert there == "OpenSearch 2.19.6 answers; the data stream logs-sandbox-default is there"
    assert "there is no data stream logs-sandbox-default yet" in await found(root)
    assert "there is no data stream" in await found({**root, STREAM: says({"data_streams": []})})
    plain = await found({**root, "/logs-sandbox-default": Reply()})
    assert "logs-sandbox-default is a plain index, and no data stream" in plain


async def test_what_it_may_not_see_it_does_not_speak_of() -> None:
    answer = await found({"/": says(OPENSEARCH), STREAM: says({}, 403)})
    assert answer == "OpenSearch 2.19.6 answers"
    many = await found({"/": says(OPENSEARCH)}, data_stream="logs-{service}-x")
    assert many == "OpenSearch 2.19.6 answers"


async def test_elasticsearch_says_whether_we_may_write() -> None:
    paths = {"/": says(ELASTICSEARCH), PRIVILEGES: says({"has_all_requested": True})}
    assert await found(paths, index="a-{date}", api_key="a:b") == (
        "Elasticsearch 9.1.0 answers, and takes our credentials; they may create documents in a-*"
    )
    paths[PRIVILEGES] = says({"has_all_requested": False})
    with pytest.raises(
        SinkMisconfiguredError, match="give them the privilege create_doc"
    ) as caught:
        await found(paths, index="a", api_key="a:b")
    assert caught.value.credentials


async def test_a_key_that_may_only_write_may_not_ask_for_the_version() -> None:
    paths = {"/": says({}, 403), PRIVILEGES: says({"has_all_requested": True})}
    assert await found(paths, index="a", api_key="a:b") == (
        "answers, and knows our credentials, which may not ask for its version;"
        " they may create documents in a"
    )


async def test_a_server_that_does_not_know_the_question_is_not_held_to_it() -> None:
    paths = {"/": says(ELASTICSEARCH), PRIVILEGES: says({}, 400)}
    assert (
        await found(paths, index="a", api_key="a:b")
        == "Elasticsearch 9.1.0 answers, and takes our credentials"
    )


async def test_opensearch_is_not_asked_what_it_does_not_know() -> None:
    paths = {"/": says(OPENSEARCH), PRIVILEGES: says({"has_all_requested": False})}
    assert (
        await found(paths, index="a", username="u", password="p")
        == "OpenSearch 2.19.6 answers, and takes our credentials"
    )


@pytest.mark.parametrize("status", [401, 407])
async def test_refused_credentials_are_told(status: int) -> None:
    with pytest.raises(SinkMisconfiguredError) as caught:
        await found({"/": says({}, status)}, api_key="a:b")
    assert caught.value.credentials


async def test_a_server_that_wants_credentials_is_told_from_one_that_refuses_ours() -> None:
    with pytest.raises(SinkMisconfiguredError) as caught:
        await found({"/": says({}, 403)})
    assert caught.value.credentials


@pytest.mark.parametrize("root", [says({}, 404), says({}, 400)])
async def test_a_wrong_address_is_told(root: Reply) -> None:
    with pytest.raises(SinkMisconfiguredError, match="mend the address"):
        await found({"/": root})


@pytest.mark.parametrize("body", [b"ok", b"[]", b'{"version":"2"}', b"{}", b""])
async def test_a_server_of_another_kind_is_told(body: bytes) -> None:
    with pytest.raises(SinkMisconfiguredError, match="not as Elasticsearch"):
        await found({"/": Reply(body=body)})


async def test_a_web_page_is_told() -> None:
    page = Reply(headers={"content-type": "text/html"}, body=b"<html>")
    with pytest.raises(SinkMisconfiguredError, match="web page"):
        await found({"/": page})


async def test_a_server_that_is_busy_is_no_wrong_setting() -> None:
    with pytest.raises(SinkUnavailableError):
        await found({"/": says({}, 503)})


async def test_hostile_words_are_made_printable() -> None:
    version = {"version": {"distribution": "opensearch", "number": "2\x1b[2J\n" + "x" * 9000}}
    answer = await found({"/": says(version)}, index="a")
    assert answer.isprintable()
    assert len(answer) < 500
