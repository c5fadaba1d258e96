"""`dti train --slots`: what auto takes, and that it says so."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.backbones.unet import UNetBackbone
from dti_engine.cli.app import app
from dti_engine.cli.run_log import FILE, read_events
from dti_engine.cli.slots import earlier_slots, max_vectors_of, parse_slots
from dti_engine.errors import ConfigurationError
from dti_engine.training import autotune as capacity

MEASURING = "measuring how many subjects fit ..."
OPTIONS = [
    "--recipe",
    "miniature",
    "--steps",
    "2",
    "--set",
    "batch_size=1",
    "--set",
    "resolution=16",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three folders of an image each."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("anna", "bob", "cleo"):
        (folder / name).mkdir()
        pixels = rng.integers(256, size=(32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / "0.png")
    return sorted(folder.iterdir())


@pytest.fixture
def train(tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """train(folder, ..., "--option") -> what the command did, to tmp_path."""

    def run(*arguments: object) -> Result:
        named = [*OPTIONS, "-i", "dog", "--model", tiny_checkpoint, "--output", tmp_path]
        return CliRunner().invoke(app, [str(each) for each in ["train", *arguments, *named]])

    return run


def _slots(folder: Path) -> list[int]:
    """Return the number of slots of each run."""
    return [each["slots"] for each in read_events(folder / FILE) if each["event"] == "started"]


def test_auto_measures_and_reports_its_choice_in_one_line(
    train: Any, photos: list[Path], tmp_path: Path
) -> None:
    result = train(*photos)
    assert result.exit_code == 0, result.output
    assert MEASURING in result.stderr
    (count,) = re.findall(r"^([1-3]) at a time: .+$", result.stderr, re.M)
    assert _slots(tmp_path) == [int(count)]
    assert len(result.stdout.splitlines()) == 3


def test_one_subject_needs_one_slot_and_no_words(
    train: Any, photos: list[Path], tmp_path: Path
) -> None:
    result = train(photos[0])
    assert result.exit_code == 0, result.output
    assert "at a time" not in result.stderr
    assert MEASURING not in result.stderr
    assert _slots(tmp_path) == [1]


def test_a_model_is_compiled_for_the_number_that_was_chosen_alone(
    train: Any, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each size that is tried would be compiled for minutes."""
    happened: list[str] = []
    search = capacity.autotune_slots

    def autotune_slots(*arguments: Any, **options: Any) -> Any:
        happened.append("found")
        return search(*arguments, **options)

    monkeypatch.setattr(capacity, "autotune_slots", autotune_slots)
    monkeypatch.setattr(UNetBackbone, "compile", lambda _: happened.append("compiled"))
    assert train(*photos[:2], "--compile").exit_code == 0
    assert happened == ["found", "compiled"]


def test_a_number_is_taken_as_it_is(train: Any, photos: list[Path], tmp_path: Path) -> None:
    result = train(*photos, "--slots", "5")
    assert result.exit_code == 0, result.output
    assert MEASURING not in result.stderr
    assert _slots(tmp_path) == [5]


def test_a_run_that_goes_on_takes_the_number_of_the_run_before(
    train: Any, photos: list[Path], tmp_path: Path
) -> None:
    assert train(*photos[:2], "--slots", "3").exit_code == 0
    result = train(*photos, "--resume")
    assert result.exit_code == 0, result.output
    assert "3 at a time, as in the run before" in result.stderr
    assert MEASURING not in result.stderr
    assert train(*photos, "--resume", "--slots", "1").exit_code == 0
    again = train(*photos)  # which is another run, and does not go on with any
    assert MEASURING in again.stderr
    assert _slots(tmp_path)[:3] == [3, 3, 1]


def test_a_run_that_goes_on_without_a_log_measures(
    train: Any, photos: list[Path], tmp_path: Path
) -> None:
    result = train(*photos, "--resume")
    assert result.exit_code == 0, result.output
    assert MEASURING in result.stderr


def test_the_last_run_that_began_is_the_one_before(tmp_path: Path) -> None:
    log = tmp_path / FILE
    assert earlier_slots(log) is None
    events = [
        {"event": "started", "slots": 4},
        {"event": "slot_assigned", "slots": 9},
        {"event": "started", "slots": 6},
        {"event": "ended"},
    ]
    log.write_text("".join(json.dumps(each) + "\n" for each in events) + '{"event": "sta')
    assert earlier_slots(log) == 6
    log.write_text(json.dumps({"event": "started", "slots": None}))
    assert earlier_slots(log) is None


def test_what_is_no_number_of_slots_is_refused() -> None:
    assert (parse_slots("auto"), parse_slots("12")) == (None, 12)
    for text in ("0", "-1", "two", ""):
        with pytest.raises(ConfigurationError, match="--slots must be auto or a number >= 1"):
            parse_slots(text)


def test_a_token_of_many_vectors_gets_the_room_that_it_needs() -> None:
    assert (max_vectors_of([None]), max_vectors_of([3, None]), max_vectors_of([None, 12, 9])) == (
        8,
        8,
        12,
    )
