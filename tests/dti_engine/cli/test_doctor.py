"""`dti doctor` tells what fits and what comes next, and never shows the token of the Hub."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dti_engine.cli.app import app
from dti_engine.cli.doctor import Machine, ModelFit, count_slots, next_command
from dti_engine.domains import DOMAINS

MACHINE = Machine("3.11", "Linux", "2.9", "cuda, 1 x GPU", 24 * 10**9, {"engine": True}, True)
SDXL = ModelFit("sdxl", True, 1, False, True, "RAIL", "https://page")


def test_the_token_of_the_hub_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    text = CliRunner().invoke(app, ["doctor"])
    document = CliRunner().invoke(app, ["doctor", "--json"])
    assert (text.exit_code, document.exit_code) == (0, 0), text.output
    assert "hf_a_secret" not in text.output + document.output
    found = json.loads(document.stdout)
    assert found["has_hub_token"] is True
    assert [model["name"] for model in found["models"]] == list(DOMAINS)
    assert found["models"][0]["is_cached"]
    assert found["next"] in text.stdout


def test_slots_are_counted_by_memory() -> None:
    sdxl = DOMAINS["sdxl"]
    assert count_slots(sdxl, None) == (0, False)
    assert count_slots(sdxl, 8 * 10**9) == (0, False)
    assert count_slots(sdxl, 24 * 10**9) == (2, True)
    assert count_slots(sdxl, 80 * 10**9) == (2, False)
    assert count_slots(DOMAINS["miniature"], 10**9)[0] > 0


def test_the_next_command_follows_from_what_is_there() -> None:
    assert next_command(replace(MACHINE, extras={"engine": False}), [SDXL]).startswith("pip")
    assert next_command(replace(MACHINE, device="cpu"), [SDXL]) == "dti demo"
    assert next_command(MACHINE, [replace(SDXL, slots=0)]) == "dti demo"
    assert next_command(MACHINE, [replace(SDXL, is_cached=False)]) == "dti models fetch sdxl"
    assert "--model sdxl --recompute" in next_command(
        MACHINE, [replace(SDXL, needs_recompute=True)]
    )
