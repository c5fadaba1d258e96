"""A tiny model that knows the words of the evaluation, and an evaluation small enough for tests."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.evaluation.protocol import Protocol
from dti_engine.evaluation.results import Results
from dti_engine.evaluation.study import Study
from dti_engine.miniature.scorer import Scorer, load_scorer, save_scorer
from dti_engine.miniature.training.text_encoder import new_tokenizer
from dti_engine.miniature.world.subjects import evaluation_prompts, held_out_subjects


@pytest.fixture(scope="session")
def evaluation_weights(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model, each word of the class words and prompts one token, and a random scorer."""
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
def tiny_protocol() -> Protocol:
    """2 subjects, 2 settings of each method, 4 steps, 1 denoising step."""
    return Protocol.standard(
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
    tiny_protocol: Protocol,
) -> Results:
    """What the tiny evaluation found, which lies in `study_folder`."""
    study = Study(
        evaluation_backbone, evaluation_scorer, tiny_protocol, study_folder, weights_sha256="tiny"
    )
    return study.run()
