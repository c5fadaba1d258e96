"""The edge of a thread, where errors are logged and passed on; the environment of the API."""

import logging
from pathlib import Path

import pytest

from services.process import RETURN_FREED_MEMORY, error_boundary


def _fail() -> None:
    raise KeyError("seat")


def test_an_error_is_logged_with_its_traceback_and_passed_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    passed = list[Exception]()
    with caplog.at_level(logging.ERROR), error_boundary("thread failed", passed.append):
        _fail()
    (record,) = caplog.records
    assert "thread failed" in record.getMessage()
    assert record.exc_info
    assert "in _fail" in caplog.text
    assert [type(error) for error in passed] == [KeyError]


def test_an_interrupt_passes_through() -> None:
    passed = list[Exception]()
    with pytest.raises(KeyboardInterrupt), error_boundary("thread failed", passed.append):
        raise KeyboardInterrupt
    assert passed == []


def test_the_image_of_the_api_sets_what_returns_freed_memory() -> None:
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()
    stage = dockerfile.partition("AS api\n")[2].partition("\nFROM ")[0]
    for name, value in RETURN_FREED_MEMORY.items():
        assert f"{name}={value}" in stage
