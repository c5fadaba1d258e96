"""Store URLs and variables of S3: what is understood, and what is told of the rest."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from dti_engine.errors import ConfigurationError
from services.errors import SettingsError
from services.storage.settings import (
    DirectorySettings,
    MemorySettings,
    S3Settings,
    store_settings,
)


def test_stores_of_this_host_are_named_by_path_or_url() -> None:
    assert store_settings("memory:") == MemorySettings()
    for url, folder in (
        ("/var/dti", "/var/dti"),
        ("jobs", "jobs"),
        ("./s3:odd", "./s3:odd"),
        ("file:///var/a%20b", "/var/a b"),
        ("file://localhost/var", "/var"),
        ("~/dti", str(Path.home() / "dti")),
    ):
        assert store_settings(url) == DirectorySettings(root=Path(folder)), url


def test_s3_takes_bucket_and_prefix_from_the_url_and_the_rest_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "DTI_S3_ENDPOINT": "https://s3.example.com:9000",
        "DTI_S3_REGION": "eu-central-1",
        "DTI_S3_ADDRESSING_STYLE": "path",
        "DTI_S3_CHECKSUMS": "when_supported",
        "DTI_S3_MAX_ATTEMPTS": "3",
        "DTI_S3_DEADLINE_S": "7.5",
        "DTI_S3_READ_TIMEOUT_S": "",
    }.items():
        monkeypatch.setenv(name, value)
    settings = store_settings("s3://bucket/team/dti/")
    assert settings == S3Settings(
        bucket="bucket",
        prefix="team/dti/",
        endpoint="https://s3.example.com:9000",
        region="eu-central-1",
        addressing_style="path",
        checksums="when_supported",
        max_attempts=3,
        deadline_s=7.5,
    )
    monkeypatch.undo()
    assert store_settings("s3://bucket") == S3Settings(bucket="bucket", prefix="")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "give s3://BUCKET"),
        ("gs://bucket", "begins with 'gs:'.*no kind of store.*give s3://BUCKET"),
        ("S3://bucket", "no kind of store"),
        ("memory:x", "give memory: alone"),
        ("file://host/folder", "three slashes"),
        ("file:folder", "three slashes"),
        ("file://[bad/", "three slashes"),
        ("s3://[bad", "the bucket"),
        ("s3://bucket/a\nb", "the prefix"),
        ("file:///", "names no folder"),
        ("file:///a?b", "%3F"),
        ("s3:bucket", "is not s3://BUCKET/PREFIX"),
        ("s3://bucket/a?endpoint=x", "variables DTI_S3_"),
        ("s3://key:secret@bucket/a", "credentials where boto3 finds them"),
        ("s3:///prefix", "the bucket ''"),
        ("s3://b_?", "is not s3://BUCKET"),
        ("s3://-bad-", "the bucket '-bad-' is not allowed"),
        ("s3://bucket/a/../b", "prefix: leave it out"),
        ("s3://bucket/a//b", "prefix: leave it out"),
        ("s3://bucket/" + "a" * 201, "the prefix"),
    ],
)
def test_the_error_of_an_invalid_url_says_why(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        store_settings(url)
    assert isinstance(caught.value, ConfigurationError)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DTI_S3_ENDPOINT", "s3.example.com", "http://HOST or https://HOST"),
        ("DTI_S3_ENDPOINT", "https://key:secret@host", "http://HOST or https://HOST"),
        ("DTI_S3_ADDRESSING_STYLE", "host", "'auto', 'path' or 'virtual'"),
        ("DTI_S3_CHECKSUMS", "never", "'when_supported' or 'when_required'"),
        ("DTI_S3_MAX_ATTEMPTS", "0", "greater than or equal to 1"),
        ("DTI_S3_DEADLINE_S", "soon", "DTI_S3_DEADLINE_S is 'soon'.*change or unset it"),
        ("DTI_S3_CONNECT_TIMEOUT_S", "nan", "DTI_S3_CONNECT_TIMEOUT_S"),
        ("DTI_S3_RETRYS", "3", "no setting is called DTI_S3_RETRYS: did you mean DTI_S3_"),
    ],
)
def test_the_error_of_an_invalid_variable_says_why(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=says) as caught:
        store_settings("s3://bucket")
    assert "secret" not in str(caught.value)


def test_variables_of_a_service_that_is_called_dti_s3_are_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DTI_S3_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("DTI_S3_SERVICE_PORT", "9000")
    monkeypatch.setenv("DTI_S3_PORT", "tcp://10.0.0.1:9000")
    assert store_settings("s3://bucket") == S3Settings(bucket="bucket", prefix="")
    monkeypatch.delenv("DTI_S3_SERVICE_HOST")
    monkeypatch.setenv("DTI_S3_PORT", "9000")
    with pytest.raises(SettingsError, match="no setting is called DTI_S3_PORT"):
        store_settings("s3://bucket")


def test_all_invalid_settings_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTI_S3_MAX_ATTEMPTS", "x")
    monkeypatch.setenv("DTI_S3_DEADLINE_S", "-1")
    with pytest.raises(SettingsError, match=r"ATTEMPTS.*; .*DEADLINE"):
        store_settings("s3://bucket")


def test_leases_are_given_up_on_early_and_never_later_than_the_rest() -> None:
    settings = S3Settings(bucket="bucket", prefix="")
    leases = settings.for_leases()
    assert leases.deadline_s < settings.deadline_s
    assert leases.read_timeout_s < settings.read_timeout_s
    strict = S3Settings(bucket="bucket", prefix="", deadline_s=1, max_attempts=1).for_leases()
    assert (strict.deadline_s, strict.max_attempts) == (1, 1)


def test_settings_do_not_change() -> None:
    settings = S3Settings(bucket="bucket", prefix="")
    with pytest.raises(ValidationError):
        settings.bucket = "other"
