"""The timeouts of an engine's store."""

import pytest

from services.inference.factory import S3_DEFAULTS
from services.storage.settings import S3Settings, store_settings


def _settings() -> S3Settings:
    found = store_settings("s3://bucket/prefix")
    assert isinstance(found, S3Settings)
    return found.with_defaults(**S3_DEFAULTS)


def test_an_engine_has_short_store_timeouts_unless_the_operator_sets_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (_settings().deadline_s, _settings().read_timeout_s) == (10, 5)
    monkeypatch.setenv("DTI_S3_DEADLINE_S", "30")
    assert _settings().deadline_s == 30
    assert _settings().read_timeout_s == 5
