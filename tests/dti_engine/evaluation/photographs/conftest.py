"""Two photographed subjects, and the command that studies them on the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.cli.app import app

PROMPTS = ("a {} on the beach", "a painting of a {}")


def _bundle(folder: Path, number: int, *, masks: int, **said: object) -> None:
    """Three photos of noise, the first `masks` of them with a mask, and bundle.json."""
    rng = np.random.default_rng(number)
    (folder / "masks").mkdir(parents=True)
    images: dict[str, dict[str, str]] = {}
    for index in range(3):
        pixels = rng.integers(256, size=(40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        if index < masks:
            mask = Image.new("L", (48, 40))
            mask.paste(255, (10, 8, 40, 32))
            mask.save(folder / "masks" / f"{index}.png")
            images[f"{index}.png"] = {"mask": f"masks/{index}.png"}
    (folder / "bundle.json").write_text(json.dumps(said | {"images": images}))


@pytest.fixture(scope="session")
def make_subjects(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_subjects(masks=3) -> a folder of bundles: rex, a dog, and ted, a toy bear."""

    def make(masks: int = 3) -> Path:
        folder = tmp_path_factory.mktemp("subjects") / "both"
        _bundle(folder / "rex", 1, masks=3, initializer="dog")
        _bundle(folder / "ted", 2, masks=masks, initializer="toy", class_noun="toy bear")
        return folder

    return make


@pytest.fixture(scope="session")
def dti_evaluate(
    tiny_checkpoint: Path, tiny_scorers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Result]:
    """dti_evaluate(output, subjects, *options) -> what came of 2 steps, 2 prompts, 2 seeds."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("# two\n\n" + "\n".join(PROMPTS) + "\n")

    def evaluate(output: Path, subjects: Path, *options: str) -> Result:
        given = {
            "--output": output,
            "--subjects": subjects,
            "--model": tiny_checkpoint,
            "--prompts": prompts,
            "--steps": 2,
            "--resolution": 16,
            "--image-seeds": 2,
            "--image-steps": 2,
            "--dtype": "float32",
            "--batch-size": 3,
            "--slots": 1,  # tried out, the number would depend on the machine, and rounding on it
            "--dinov2": tiny_scorers / "dinov2-base",
            "--siglip": tiny_scorers / "siglip-base-patch16-512",
        }
        words = [str(word) for option in given.items() for word in option]
        return CliRunner().invoke(app, ["evaluate", *words, *options])

    return evaluate
