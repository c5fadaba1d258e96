"""The edge of a thread: errors are logged with their traceback and passed on."""

import logging

import pytest

from services.process import error_boundary


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
