"""Evaluations of a tiny model in both domains, small enough for tests."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel
from typer.testing import CliRunner, Result

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.cli.app import app
from dti_engine.evaluation.miniature import MiniatureStudy
from dti_engine.evaluation.protocol import MiniatureProtocol
from dti_engine.evaluation.results import MiniatureResults
from dti_engine.miniature.scorer import Scorer, load_scorer, save_scorer
from dti_engine.miniature.training.text_encoder import new_tokenizer
from dti_engine.miniature.world.subjects import evaluation_prompts, held_out_subjects


@pytest.fixture(scope="session")
def evaluation_weights(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the tiny model, with one token for each word of the prompts, and a random scorer."""
    folder = tmp_path_factory.mktemp("weights") / "tiny-miniature"
    shutil.copytree(make_checkpoint("v_prediction"), folder)
    texts = [prompt.template for prompt in evaluation_prompts()]
    for part in ("evaluation", "settings"):
        texts += [subject.class_word for subject in held_out_subjects(part)]
    tokenizer = new_tokenizer(re.findall("[a-z]+", " ".join(texts)))
    config = CLIPTextConfig.from_pretrained(folder / "text_encoder", vocab_size=len(tokenizer))
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPTextModel(config).save_pretrained(folder / "text_encoder")
        scorer = Scorer()
        scorer.answers.linear.weight.data *= 30  # or it would give every image the same answers
        save_scorer(scorer, folder / "scorer.safetensors")
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def evaluation_backbone(evaluation_weights: Path) -> Iterator[Backbone]:
    return load_backbone(evaluation_weights)


@pytest.fixture(scope="session")
def evaluation_scorer(evaluation_weights: Path) -> Scorer:
    return load_scorer(evaluation_weights / "scorer.safetensors")


@pytest.fixture(scope="session")
def tiny_protocol() -> MiniatureProtocol:
    """2 subjects, 2 settings of each method, 4 steps, 1 denoising step."""
    return MiniatureProtocol.standard(
        steps=4,
        resolution=16,
        num_settings=2,
        num_subjects=2,
        num_settings_subjects=1,
        num_training_seeds=1,
        num_image_seeds=1,
        num_slots=2,
        image_steps=1,
        batch_size=8,
    )


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "whole"


@pytest.fixture(scope="session")
def results(
    study_folder: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: MiniatureProtocol,
) -> MiniatureResults:
    """Return the results of the tiny evaluation in `study_folder`."""
    study = MiniatureStudy(
        evaluation_backbone, evaluation_scorer, tiny_protocol, study_folder, weights_sha256="tiny"
    )
    return study.run()


# Photographs

PROMPTS = ("a {} on the beach", "a painting of a {}")


def _bundle(folder: Path, number: int, *, masks: int, **description: object) -> None:
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
    (folder / "bundle.json").write_text(json.dumps(description | {"images": images}))


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
def evaluate_photographs(
    tiny_checkpoint: Path, tiny_scorers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Result]:
    """evaluate_photographs(output, subjects, *options): 2 steps, 2 prompts, 2 image seeds."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("# two\n\n" + "\n".join(PROMPTS) + "\n")

    def evaluate(output: Path, subjects: Path, *options: str) -> Result:
        values = {
            "--output": output,
            "--model": tiny_checkpoint,
            "--prompts": prompts,
            "--steps": 2,
            "--resolution": 16,
            "--num-image-seeds": 2,
            "--image-steps": 2,
            "--dtype": "float32",
            "--batch-size": 3,
            "--slots": 1,  # tried out, the number would depend on the machine, and rounding on it
            "--dinov2": tiny_scorers / "dinov2-base",
            "--siglip": tiny_scorers / "siglip-base-patch16-512",
        }
        words = [str(word) for option in values.items() for word in option]
        return CliRunner().invoke(app, ["evaluate", "photographs", str(subjects), *words, *options])

    return evaluate
