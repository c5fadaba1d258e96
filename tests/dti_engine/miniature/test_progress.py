"""The progress output of a long run."""

import io
import logging

import pytest
from rich.console import Console

from dti_engine.miniature.progress import Display


def test_lines_tell_first_and_last_step_where_there_is_no_terminal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with Display(Console(file=io.StringIO())) as display:
        for step in range(41, 61):
            display.report("denoiser", step, 60, {"loss": 0.5})

    assert len(caplog.messages) == 2
    assert caplog.messages[0] == "denoiser 41/60, ? left  loss 0.5"
    assert caplog.messages[1].startswith("denoiser 60/60, 0:00:00 left")


def test_a_terminal_gets_a_bar_for_each_stage(caplog: pytest.LogCaptureFixture) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    with Display(console) as display:
        display.report("images", 16, 16, {})
        display.report("reader", 7, 1200, {"loss": 0.25})

    assert caplog.messages == []
    for shown in ("images", "16/16", "reader", "7/1200", "loss 0.25"):
        assert shown in screen.getvalue()
