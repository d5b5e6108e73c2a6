"""Which settings of the Elasticsearch sink are refused, and where requests go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from sinks.elasticsearch import ElasticsearchSettings

DOCS = Path(__file__).parents[3] / "docs" / "sinks" / "elasticsearch.md"
KEY = "VnVhQ2ZHY0JDZGJrUW0tZTVhT3g6dWkybHAyYXhUTm1zeWFrdzl0dk5udw=="


def settings(**given: Any) -> ElasticsearchSettings:
    return ElasticsearchSettings.model_validate({"endpoint": "https://es:9200", **given})


def query(**given: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(settings(**given).bulk_url).query)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://es", "https://es/_bulk"),
        ("https://es/", "https://es/_bulk"),
        ("https://es/_bulk", "https://es/_bulk"),
        ("https://es/prefix", "https://es/prefix/_bulk"),
        ("https://es/prefix/", "https://es/prefix/_bulk"),
        (
            "http://127.0.0.1:9428/insert/elasticsearch?a=b",
            "http://127.0.0.1:9428/insert/elasticsearch/_bulk",
        ),
    ],
)
def test_requests_go_to_bulk_behind_the_endpoint_s_path(endpoint: str, expected: str) -> None:
    assert settings(endpoint=endpoint).bulk_url.partition("?")[0] == expected


def test_the_server_is_asked_for_no_more_than_statuses_and_errors() -> None:
    assert query() == {
        "filter_path": ["errors,items.*.status,items.*.error"],
        "timeout": ["15000ms"],
    }


def test_a_server_waits_for_a_shard_half_as_long_as_we_wait_for_it() -> None:
    assert query(timeout=10.0)["timeout"] == ["5000ms"]
    assert query(timeout=0.01)["timeout"] == ["5ms"]


def test_a_pipeline_is_named_in_the_query() -> None:
    assert query(pipeline="a b&c")["pipeline"] == ["a b&c"]


def test_what_a_pipeline_refuses_goes_around_it() -> None:
    given = settings(pipeline="a", dead_letter_index="dead")
    assert parse_qs(urlsplit(given.fallback_url).query)["pipeline"] == ["_none"]
    assert settings(dead_letter_index="dead").fallback_url == settings().bulk_url


def test_the_endpoint_s_own_query_is_kept_and_goes_before_ours() -> None:
    given = "https://es/?_time_field=@timestamp&_msg_field=&timeout=1m"
    assert urlsplit(settings(endpoint=given).bulk_url).query == (
        "_time_field=@timestamp&_msg_field=&timeout=1m"
        "&filter_path=errors,items.*.status,items.*.error"
    )


def test_other_parts_of_the_server_have_the_same_prefix() -> None:
    given = settings(endpoint="https://es/prefix/_bulk?a=b")
    assert given.url_of("") == "https://es/prefix/"
    assert given.url_of("/_data_stream/x") == "https://es/prefix/_data_stream/x"


def test_lines_go_to_a_data_stream_unless_an_index_is_named() -> None:
    assert settings().target.pattern == "logs-sandbox-default"
    assert settings(data_stream="logs-{service}-prod").target.pattern == "logs-*-prod"
    assert settings(index="sandbox-{date}").target.pattern == "sandbox-*"


def test_batches_are_as_both_servers_advise() -> None:
    assert (settings().plan.max_records, settings().plan.max_bytes) == (5_000, 5 << 20)
    plan = settings(batch={"max_age": "5s"}).plan
    assert (plan.max_records, plan.max_age_s) == (5_000, 5.0)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"endpoint": "es:9200"}, "expected a URL"),
        ({"endpoint": "https://u:p@es"}, "must not hold credentials"),
        ({"index": "a", "data_stream": "b"}, '"data_stream" and "index" exclude each other'),
        ({"index": "Logs"}, "lower case"),
        ({"index": "{service}"}, "begins with text of its own"),
        ({"index": "logs-{pod}"}, "unknown field"),
        ({"data_stream": "logs-{date}"}, r"a data stream has no \{date\}"),
        ({"dead_letter_index": "A"}, "lower case"),
        ({"index": "logs-{sandbox_id}"}, "allow_high_cardinality: true"),
        ({"data_stream": "logs-{display_name}-x"}, "allow_high_cardinality: true"),
        ({"dead_letter_index": "logs-{sandbox_id}"}, "allow_high_cardinality: true"),
        ({"api_key": KEY, "api_key_file": "/key"}, '"api_key" and "api_key_file" exclude'),
        ({"api_key": KEY, "bearer_token": "x"}, "api_key and bearer_token exclude each other"),
        ({"api_key": KEY, "username": "u", "password": "p"}, "api_key and username exclude"),
        (
            {"api_key_file": "/key", "headers": {"authorization": "x"}},
            "api_key and headers.authorization exclude each other",
        ),
        ({"api_key": "ApiKey abc"}, "expected the key as it was shown"),
        ({"api_key": "a:b:c"}, "expected the key as it was shown"),
        ({"api_key": KEY, "endpoint": "http://es:9200"}, "in the clear"),
        ({"pipeline": ""}, "at least 1 character"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what) as caught:
        settings(**given)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"index": "logs-{sandbox_id}", "allow_high_cardinality": True},
        {"api_key": "VuaCfGcBCdbkQm-e5aOx:ui2lp2axTNmsyakw9tvNnw"},
        {"api_key": KEY, "endpoint": "http://127.0.0.1:9200"},
        {"api_key": KEY, "endpoint": "http://es:9200", "allow_plaintext": True},
        {"headers": {"X-Other": "x"}, "api_key": KEY},
    ],
)
def test_what_can_work_is_taken(given: dict[str, Any]) -> None:
    assert settings(**given).type == "elasticsearch"


def test_the_documentation_s_configurations_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        for sink in YAML(typ="safe").load(block)["sinks"].values():
            ElasticsearchSettings.model_validate(sink)


def test_no_key_is_shown() -> None:
    given = settings(api_key=KEY)
    assert KEY not in repr(given)
    assert KEY not in given.model_dump_json()
