"""Grades, and the examination of a model that knows nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from dti_engine.miniature.examine import (
    BARS,
    GROUPS,
    Examination,
    examine,
    held_out_examples,
    publish,
    tally,
)
from dti_engine.miniature.scorer import ScoredImage
from dti_engine.miniature.world.scenes import Scene

ReadPerfectly = Callable[[Scene], ScoredImage]


def test_perfect_readings_get_full_marks(read_perfectly: ReadPerfectly) -> None:
    examples = held_out_examples(60)

    tallies = tally((read_perfectly(each.scene), each) for each in examples)

    assert tallies.keys() > BARS.keys()
    assert {each.share for each in tallies.values()} == {1.0}
    assert tallies["style"].asked == 60
    assert tallies["background"].asked == sum("background" in each.asked for each in examples)


def test_a_wrong_background_costs_the_background_alone(read_perfectly: ReadPerfectly) -> None:
    examples = [each for each in held_out_examples(60) if each.scene.background != "snow"]

    tallies = tally(
        (read_perfectly(replace(each.scene, background="snow")), each) for each in examples
    )

    assert {name for name, each in tallies.items() if each.right < each.asked} == {"background"}
    assert tallies["background"].right == 0


def test_wearing_nothing_is_not_graded(read_perfectly: ReadPerfectly) -> None:
    bare = [e for e in held_out_examples(60) if all(f.accessory == "none" for f in e.scene.figures)]

    assert "accessory" not in tally((read_perfectly(each.scene), each) for each in bare)


def test_groups_part_the_captions() -> None:
    examples = held_out_examples(200)
    counts = {group: sum(map(belongs, examples)) for group, belongs in GROUPS.items()}

    assert counts["one figure"] + counts["two figures"] == counts["all"] == 200
    assert counts["with breeds"] + counts["without breeds"] == 200
    assert min(counts.values()) > 20


def test_bars_are_met_or_missed(read_perfectly: ReadPerfectly) -> None:
    examples = held_out_examples(40)
    readings = [read_perfectly(each.scene) for each in examples]
    night = [read_perfectly(replace(each.scene, background="space")) for each in examples]
    found = Examination(
        examples, {}, {"drawn": readings, "reconstructed": readings, "generated": night}, 25, 4.0
    )

    document = found.document()

    assert document["generated"]["object"] == {"share": 1.0, "bar": 0.9, "met": True}
    assert not document["generated"]["background"]["met"]
    assert document["scorer"]["drawn"] == {"share": 1.0, "bar": 0.97, "met": True}
    assert document["groups"]["all"]["captions"] == 40


def test_an_examination_leaves_scores_a_card_and_a_sheet(toy_weights: Path, tmp_path: Path) -> None:
    weights, generated = tmp_path / "weights", list[int]()
    shutil.copytree(toy_weights, weights)
    assert "Not examined yet." in (weights / "README.md").read_text()

    found = examine(
        weights,
        count=5,
        steps=2,
        batch_size=3,
        device=torch.device("cpu"),
        on_images=generated.append,
    )
    publish(found, weights, sheet=tmp_path / "sheet.png")

    assert generated == [3, 5]
    assert {kind: len(each) for kind, each in found.images.items()} == {
        "drawn": 5,
        "reconstructed": 5,
        "generated": 5,
    }
    scores = json.loads((weights / "examination.json").read_text())
    assert scores["captions"] == 5
    card = (weights / "README.md").read_text()
    assert "python -m recipe --size toy" in card
    assert "| training the denoiser | 2 |" in card
    assert "| unet/diffusion_pytorch_model.safetensors |" in card
    assert ("missed" in card) == any(not each["met"] for each in scores["generated"].values())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 5 * 128
