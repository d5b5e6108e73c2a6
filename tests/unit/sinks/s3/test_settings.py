"""How an archive is configured: what is filled in, what is refused where, what is advised."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from forwarder.config import InvalidConfigError, load_settings
from sinks.plan import WindowLimits
from sinks.s3.formats.registry import get_format
from sinks.s3.settings import S3Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AWS = "bucket: my-logs, region: eu-west-1"
LOCAL = "bucket: my-logs, endpoint: 'http://127.0.0.1:9000'"


def load_all(
    directory: Path, *texts: str, env: Mapping[str, str] | None = None
) -> list[S3Settings]:
    """The settings of sinks of these keys, in YAML's flow style, as the daemon reads them."""
    file = directory / "c.yaml"
    sinks = "".join(f"  s{place}: {{type: s3, {text}}}\n" for place, text in enumerate(texts))
    file.write_text(f"state_dir: /s\nsandboxes: [{{id: a}}]\nsinks:\n{sinks}")
    variables = {"CWSANDBOX_API_KEY": "key", **(env or {})}
    loaded = load_settings(file, sink_types={"s3": S3Settings}, env=variables).sinks.values()
    return [settings for settings in loaded if isinstance(settings, S3Settings)]


def load(directory: Path, text: str, env: Mapping[str, str] | None = None) -> S3Settings:
    (settings,) = load_all(directory, text, env=env)
    return settings


@pytest.mark.parametrize(
    ("text", "store", "endpoint", "region", "addressing"),
    [
        (AWS, "aws", "https://s3.eu-west-1.amazonaws.com", "eu-west-1", "virtual"),
        (
            f"{AWS}, provider: aws",
            "aws",
            "https://s3.eu-west-1.amazonaws.com",
            "eu-west-1",
            "virtual",
        ),
        (
            "bucket: a.b.c, region: cn-north-1",
            *("aws", "https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "path"),
        ),
        (
            "bucket: My_Old_Logs, region: us-east-1",
            *("aws", "https://s3.us-east-1.amazonaws.com", "us-east-1", "path"),
        ),
        (
            "bucket: my-logs, provider: coreweave, region: US-EAST-04A",
            *("coreweave", "https://cwobject.com", "US-EAST-04A", "virtual"),
        ),
        (
            "bucket: my-logs, endpoint: 'https://cwobject.com', region: US-EAST-04A",
            *("coreweave", "https://cwobject.com", "US-EAST-04A", "virtual"),
        ),
        (
            "bucket: my-logs, endpoint: 'http://cwlota.com', allow_plaintext: true, region: A",
            *("coreweave", "http://cwlota.com", "A", "virtual"),
        ),
        (
            "bucket: my-logs, provider: r2, account: 0f3c",
            *("r2", "https://0f3c.r2.cloudflarestorage.com", "auto", "path"),
        ),
        (
            "bucket: my-logs, endpoint: 'https://0f3c.eu.r2.cloudflarestorage.com'",
            *("r2", "https://0f3c.eu.r2.cloudflarestorage.com", "auto", "path"),
        ),
        (
            "bucket: my-logs, provider: gcs",
            *("gcs", "https://storage.googleapis.com", "auto", "path"),
        ),
        (
            "bucket: my-logs, provider: minio, endpoint: 'https://minio.example.com'",
            *("minio", "https://minio.example.com", "us-east-1", "path"),
        ),
        (
            "bucket: my-logs, provider: ceph, endpoint: 'https://rgw.example.com', region: de",
            *("ceph", "https://rgw.example.com", "de", "path"),
        ),
        (LOCAL, "other", "http://127.0.0.1:9000", "us-east-1", "path"),
        (
            "bucket: minio, endpoint: 'https://minio.example.com/store'",
            *("other", "https://minio.example.com/store", "us-east-1", "path"),
        ),
        (f"{LOCAL}, addressing: virtual", "other", "http://127.0.0.1:9000", "us-east-1", "virtual"),
        (
            "bucket: my-logs, endpoint: 'https://amazonaws.com.example.com'",
            *("other", "https://amazonaws.com.example.com", "us-east-1", "path"),
        ),
    ],
)
def test_what_is_left_out_comes_from_the_kind_of_store(
    tmp_path: Path, text: str, store: str, endpoint: str, region: str, addressing: str
) -> None:
    settings = load(tmp_path, text)

    assert (settings.store, settings.store_endpoint) == (store, endpoint)
    assert (settings.store_region, settings.store_addressing) == (region, addressing)
    assert settings.endpoints == {"endpoint": endpoint}


@pytest.mark.parametrize(
    ("text", "env", "region"),
    [
        ("bucket: my-logs", {"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ("bucket: my-logs", {"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ("bucket: my-logs", {"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}, "a"),
        ("bucket: my-logs", {"AWS_REGION": "", "AWS_DEFAULT_REGION": "b"}, "b"),
        (AWS, {"AWS_REGION": "us-east-1"}, "eu-west-1"),
        (LOCAL, {"AWS_REGION": "eu-west-1"}, "us-east-1"),
        ("bucket: my-logs, provider: gcs", {"AWS_REGION": "eu-west-1"}, "auto"),
    ],
)
def test_the_region_of_the_environment_is_for_buckets_of_amazon_alone(
    tmp_path: Path, text: str, env: Mapping[str, str], region: str
) -> None:
    assert load(tmp_path, text, env).store_region == region


KEYS = "access_key_id: AKIA, secret_access_key: secret"


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("region: x", "bucket", "is required"),
        ("bucket: 's3://logs', region: x", "bucket", 'without "s3://"'),
        ("bucket: a, region: x", "bucket", "expected the name of a bucket"),
        ("bucket: a..b, region: x", "bucket", "expected the name of a bucket"),
        ("bucket: my-logs", "", '"aws" needs "region": the one that the bucket is in'),
        ("bucket: my-logs, region: 'a/b'", "region", "expected letters, digits"),
        ("bucket: my-logs, provider: coreweave", "", '"coreweave" needs "region"'),
        ("bucket: my-logs, provider: minio", "", '"minio" needs "endpoint"'),
        ("bucket: my-logs, provider: ceph", "", '"ceph" needs "endpoint"'),
        ("bucket: my-logs, provider: other", "", '"other" needs "endpoint"'),
        ("bucket: my-logs, provider: r2", "", '"r2" needs "account" or "endpoint"'),
        (f"{AWS}, account: abc", "account", 'only "provider: r2" has it'),
        (f"{AWS}, provider: azure", "provider", 'expected "aws", "coreweave"'),
        (f"{AWS}, endpoint: 's3.example.com'", "endpoint", "expected a URL"),
        (f"{LOCAL[:-1]}/?a=b'", "endpoint", 'has no "?"'),
        (
            f"{AWS}, endpoint: 'https://my-logs.s3.eu-west-1.amazonaws.com'",
            "endpoint",
            "it has the bucket in it already",
        ),
        (
            "bucket: my-logs, endpoint: 'https://0f3c.r2.cloudflarestorage.com/my-logs'",
            "endpoint",
            "it has the bucket in it already",
        ),
        (
            f"{AWS}, endpoint: 'http://169.254.169.254'",
            "endpoint",
            "link-local addresses",
        ),
        (
            f"{AWS}, provider: coreweave, addressing: path",
            "addressing",
            '"coreweave" knows "virtual" only',
        ),
        ("bucket: a.b, provider: coreweave, region: A", "bucket", "3 to 63 of a-z, 0-9 and -"),
        ("bucket: cw-logs, provider: coreweave, region: A", "bucket", "neither cw- nor vip-"),
        ("bucket: my_logs, provider: r2, account: a", "bucket", "3 to 63 of a-z, 0-9 and -"),
        ("bucket: MyLogs, region: x, addressing: virtual", "bucket", "part of a host's name"),
        (
            "bucket: my-logs, endpoint: 'http://minio.example.com'",
            "endpoint",
            'use https://, or set "allow_plaintext: true"',
        ),
        (f"{AWS}, key: 'logs/{{sandbox}}'", "key", "did you mean {sandbox_id}?"),
        (f"{AWS}, key: 'logs/{{first}}.gz'", "key", "but its objects in '.ndjson.zst'"),
        (f"{AWS}, key: /logs", "key", "does not begin with '/'"),
        (f"{AWS}, format: text", "format", "the key needs {sandbox_id} and {container}"),
        (f"{AWS}, format: text, key: '{{sandbox_id}}/{{date}}'", "key", "{container}"),
        (f"{AWS}, format: csv", "format", '"parquet"'),
        (f"{AWS}, compression: none, level: 3", "level", 'compression "none" has no level'),
        (f"{AWS}, compression: gzip, level: 12", "level", "levels up to 9"),
        (f"{AWS}, level: 20", "level", "at most 19"),
        (f"{AWS}, window: {{max_size: 8GiB}}", "window.max_size", "between 4KiB and 4GiB"),
        (f"{AWS}, window: {{max_age: 2d}}", "window.max_age", "between 100ms and 24h"),
        (f"{AWS}, manifest_prefix: /a", "manifest_prefix", "expected the beginning of keys"),
        (f"{AWS}, manifest_prefix: a//b", "manifest_prefix", "expected the beginning of keys"),
        (f"{AWS}, manifest_prefix: a/../b", "manifest_prefix", "expected the beginning of keys"),
        (f"{AWS}, access_key_id: AKIA", "", 'needs "secret_access_key" or'),
        (f"{AWS}, secret_access_key: secret", "", '"secret_access_key" needs "access_key_id"'),
        (f"{AWS}, session_token: secret", "", '"session_token" needs "access_key_id"'),
        (
            f"{AWS}, {KEYS}, secret_access_key_file: /k",
            "secret_access_key_file",
            "exclude each other",
        ),
        (
            f"{AWS}, {KEYS}, session_token: secret, session_token_file: /t",
            "session_token_file",
            "exclude each other",
        ),
        (f"{AWS}, {KEYS}, profile: prod", "profile", '"access_key_id" and "profile" exclude'),
        (f"{AWS}, {KEYS}, credentials_file: /c", "credentials_file", "exclude each other"),
        (f"{AWS}, {KEYS}, anonymous: true", "anonymous", "exclude each other"),
        (f"{AWS}, profile: prod, anonymous: true", "anonymous", "exclude each other"),
        (
            f"{AWS}, encryption: {{algorithm: AES256, kms_key_id: k}}",
            "encryption.kms_key_id",
            'needs algorithm "aws:kms"',
        ),
        (
            f"{AWS}, encryption: {{algorithm: AES256, bucket_key: true}}",
            "encryption.bucket_key",
            'needs algorithm "aws:kms"',
        ),
        (f"{AWS}, encryption: {{algorithm: kms}}", "encryption.algorithm", '"aws:kms"'),
        (
            "bucket: my-logs, provider: r2, account: a, encryption: {algorithm: 'aws:kms'}",
            "encryption",
            '"r2" encrypts everything by itself',
        ),
        (
            "bucket: my-logs, provider: r2, account: a, storage_class: GLACIER",
            "storage_class",
            '"r2" has "STANDARD" and "STANDARD_IA"',
        ),
        (f"{AWS}, multipart_above: 1MiB", "multipart_above", "between 5MiB and 5GiB"),
        (f"{AWS}, part_size: 1MiB", "part_size", "between 5MiB and 5GiB"),
    ],
)
def test_what_cannot_work_is_refused_at_its_key(
    tmp_path: Path, text: str, at: str, why: str
) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        load(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.path.removeprefix("sinks.s0").removeprefix(".") == at
    assert why in problem.text
    assert "secret" not in problem.text.replace("secret_access_key", "")


@pytest.mark.parametrize(
    "text",
    [
        KEYS,
        f"{KEYS}, session_token: secret",
        "access_key_id: AKIA, secret_access_key_file: /k, session_token_file: /t",
        "profile: prod",
        "credentials_file: /c",
        "profile: prod, credentials_file: /c",
        "anonymous: true",
        "endpoint: 'http://minio.example.com', anonymous: true",
        "endpoint: 'http://localhost:9000'",
        "endpoint: 'http://minio.example.com', allow_plaintext: true",
    ],
)
def test_one_way_to_log_in_is_enough_and_none_means_that_of_the_aws_tools(
    tmp_path: Path, text: str
) -> None:
    assert load(tmp_path, f"{AWS}, {text}").bucket == "my-logs"


@pytest.mark.parametrize(
    ("missing", "text", "at"),
    [
        ("botocore", AWS, "type"),
        ("pyarrow", f"{AWS}, format: parquet", "format"),
    ],
)
def test_an_extra_that_is_not_installed_is_asked_for_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, text: str, at: str
) -> None:
    monkeypatch.setattr("sinks.s3.settings.find_spec", lambda name: None if name == missing else 1)
    with pytest.raises(InvalidConfigError) as caught:
        load(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.path == f"sinks.s0.{at}"
    assert 'pip install "sandbox-forwarder[' in problem.text


def test_signatures_are_what_botocore_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.s3.settings.find_spec", lambda _: None)
    assert load(tmp_path, f"{AWS}, anonymous: true").anonymous


def test_knowing_the_sink_costs_no_import_of_its_extras() -> None:
    code = (
        "import sys; from sinks.registry import BUILTIN;"
        "BUILTIN['s3'].settings(bucket='my-logs', region='x', format='parquet');"
        "print({'botocore', 'pyarrow', 'obstore', 'duckdb'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_plan_is_of_windows_one_built_while_one_is_uploaded(tmp_path: Path) -> None:
    settings = load(tmp_path, f"{AWS}, window: {{max_size: 1MiB, max_age: 1h, at_end: true}}")

    assert settings.plan.window == WindowLimits(1 << 20, 3600.0, at_end=True)
    assert (settings.plan.in_flight, settings.plan.timeout_s) == (2, None)
    assert settings.exactly_once


@pytest.mark.parametrize(
    ("text", "manifests"),
    [
        ("", "logs/_manifests/"),
        (", key: 'a/b/x-{date}'", "a/b/_manifests/"),
        (", key: '{date}'", "_manifests/"),
        (", manifest_prefix: elsewhere", "elsewhere/"),
        (", manifest_prefix: else/where/", "else/where/"),
    ],
)
def test_manifests_are_in_the_folder_of_all_keys_unless_it_is_said(
    tmp_path: Path, text: str, manifests: str
) -> None:
    assert load(tmp_path, AWS + text).recipe.manifests == manifests


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("", 3),
        (", compression: gzip", 6),
        (", compression: none", 0),
        (", level: 19", 19),
        (", compression: gzip, level: 9", 9),
        (", format: parquet, level: 7", 7),
    ],
)
def test_the_recipe_has_a_level_in_any_case(tmp_path: Path, text: str, level: int) -> None:
    assert load(tmp_path, AWS + text).recipe.level == level


@pytest.mark.parametrize(
    ("form", "extension"),
    [
        ("ndjson", ".ndjson.zst"),
        ("text", ".log.zst"),
        ("otlp_json", ".otlp.jsonl.zst"),
        ("parquet", ".parquet"),
    ],
)
def test_the_extension_of_its_format_may_be_written_behind_the_key(
    tmp_path: Path, form: str, extension: str
) -> None:
    key = f"{{sandbox_id}}/{{container}}/{{first}}{extension}"
    settings = load(tmp_path, f"{AWS}, format: {form}, key: '{key}'")

    assert get_format(settings.format, 1).extension("zstd") == extension
    assert settings.recipe.key == key


def test_objects_are_written_with_the_class_and_the_encryption_that_were_asked_for(
    tmp_path: Path,
) -> None:
    kms = "{algorithm: 'aws:kms', kms_key_id: 'arn:aws:kms:eu-west-1:1:key/a', bucket_key: true}"
    settings = load(tmp_path, f"{AWS}, storage_class: STANDARD_IA, encryption: {kms}")

    assert settings.object_headers == {
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-west-1:1:key/a",
        "x-amz-server-side-encryption-bucket-key-enabled": "true",
    }
    assert load(tmp_path, AWS).object_headers == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (AWS, AWS),
        (AWS, f"{AWS}, key: 'logs/{{sandbox_id}}/{{first}}'"),
        (AWS, f"{AWS}, key: 'other/{{first}}', manifest_prefix: logs/_manifests"),
        (
            AWS,
            f"{AWS}, key: 'logs/_manifests/deeper/{{first}}', manifest_prefix: logs/_manifests/a",
        ),
        (LOCAL, "bucket: my-logs, endpoint: 'http://127.0.0.1:9000/'"),
    ],
)
def test_two_sinks_never_make_one_archive_which_would_have_every_line_twice(
    tmp_path: Path, one: str, other: str
) -> None:
    with pytest.raises(InvalidConfigError, match=r"sinks\.s1: (may )?writes? to the same place"):
        load_all(tmp_path, one, other)


@pytest.mark.parametrize(
    "other",
    [
        f"{AWS}, key: 'else/{{first}}'",
        f"{AWS}, manifest_prefix: logs/_other",
        "bucket: my-logs2, region: eu-west-1",
        "bucket: my-logs, region: eu-west-2",
        LOCAL,
    ],
)
def test_two_archives_may_share_a_bucket(tmp_path: Path, other: str) -> None:
    assert len(load_all(tmp_path, AWS, other)) == 2


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            ", key: 'a/{sandbox_id}/{first}'",
            "for every sandbox in it, up to 12 an hour for one that keeps talking",
        ),
        (
            ", key: 'a/{sandbox_id}/{display_name}', window: {max_age: 2m}",
            "the key has {sandbox_id} and {display_name}: each window makes an object of its own",
        ),
        (
            ", key: 'a/{display_name}/{first}', window: {max_age: 2m}",
            "up to 30 an hour",
        ),
        (", window: {max_age: 10s}", "window.max_age makes up to 720 objects an hour"),
        (", window: {at_end: true}", "window.at_end: every sandbox that ends"),
        (", key: 'a/{first}'", "the key has no {date}"),
        (", manifest_prefix: logs/manifests", "manifests are among the objects"),
        (", storage_class: DEEP_ARCHIVE", "cannot read such objects, nor manifests"),
        (", endpoint: 'http://a.example.com', allow_plaintext: true", "can read the lines"),
        (", endpoint: 'http://a.example.com', anonymous: true", "can read the lines"),
        (", tls: {insecure_skip_verify: true}", "tls.insecure_skip_verify"),
    ],
)
def test_what_is_allowed_and_seldom_meant_is_said(tmp_path: Path, text: str, warning: str) -> None:
    (said,) = load(tmp_path, AWS + text).warnings
    assert warning in said


def test_a_bucket_with_a_dot_in_the_name_of_a_host_is_said(tmp_path: Path) -> None:
    text = "bucket: my.logs, region: x, addressing: virtual"
    (said,) = load(tmp_path, text).warnings
    assert "the bucket's name has a dot" in said


@pytest.mark.parametrize(
    "text",
    [
        AWS,
        f"{AWS}, window: {{max_age: 1m}}",
        f"{AWS}, key: '{{date}}/{{container}}/{{first}}'",
        f"{AWS}, manifest_prefix: elsewhere",
        f"{AWS}, storage_class: GLACIER_IR",
        LOCAL,
    ],
)
def test_what_is_usual_needs_no_warning(tmp_path: Path, text: str) -> None:
    assert list(load(tmp_path, text).warnings) == []
