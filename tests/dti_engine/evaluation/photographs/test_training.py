"""Tokens that an evaluation lacks are trained, and go on where they were stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dti_engine.backbones.interface import Backbone
from dti_engine.cli.evaluate_photographs import open_subjects
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.photographs import study as training
from dti_engine.evaluation.photographs.protocol import Protocol
from dti_engine.evaluation.photographs.store import Store
from dti_engine.evaluation.photographs.study import train_missing
from dti_engine.evaluation.photographs.subjects import PhotographedSubject
from dti_engine.recipes import sd

CONFIG = sd().changed(steps=4, batch_size=1, resolution=16)
PROTOCOL = Protocol.of(CONFIG, is_flow=False, changes={"num_training_seeds": 2})


@pytest.fixture(scope="module")
def subjects(make_subjects: Callable[..., Path]) -> list[PhotographedSubject]:
    return open_subjects(make_subjects(), prompts="auto", quick=True)


def _train(
    backbone: Backbone,
    folder: Path,
    subjects: list[PhotographedSubject],
    on_steps: Callable[[int], None],
) -> Store:
    store = Store(folder, {})
    train_missing(
        backbone,
        store,
        PROTOCOL,
        "dti",
        CONFIG,
        subjects,
        num_slots=1,
        max_vectors=8,
        on_steps=on_steps,
    )
    return store


def test_a_stopped_training_goes_on_from_its_checkpoints(
    tiny_backbone: Backbone,
    subjects: list[PhotographedSubject],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    whole = _train(tiny_backbone, tmp_path / "whole", subjects, lambda done: None)

    def stop(done: int) -> None:
        if done >= 7:  # in the second of four
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(tiny_backbone, tmp_path / "part", subjects, stop)
    assert len(list((tmp_path / "part" / "checkpoints" / "dti").iterdir())) == 1
    told: list[int] = []
    part = _train(tiny_backbone, tmp_path / "part", subjects, told.append)
    assert told[0] == 4
    assert told[-1] == 16
    for subject in subjects:
        tokens = []
        for seed in range(2):
            one, other = (each.load_token("dti", subject, seed).token for each in (whole, part))
            torch.testing.assert_close(one.embeddings, other.embeddings, rtol=0, atol=0)
            tokens.append(one.embeddings["text_encoder"])
        assert not torch.equal(*tokens)
    assert not list((tmp_path / "part" / "checkpoints").glob("**/*.safetensors"))


def test_a_few_subjects_and_prompts_are_taken_when_quick(
    subjects: list[PhotographedSubject],
) -> None:
    assert [(each.name, each.class_noun) for each in subjects] == [
        ("rex", "dog"),
        ("ted", "toy bear"),
    ]
    rex, ted = subjects
    assert len(rex.prompts) == len(ted.prompts) == 4
    assert rex.prompts != ted.prompts
    assert rex.is_masked


def test_a_style_needs_prompts_of_its_own(make_subjects: Callable[..., Path]) -> None:
    folder = make_subjects()
    (folder / "rex" / "bundle.json").write_text('{"initializer": "generating", "kind": "style"}')
    with pytest.raises(ConfigurationError, match="give --prompts and a file"):
        open_subjects(folder, prompts="auto", quick=False)


def test_a_refused_subject_is_named_with_the_reason(make_subjects: Callable[..., Path]) -> None:
    folder = make_subjects()
    (folder / "ted" / "bundle.json").unlink()
    with pytest.raises(ConfigurationError, match=r"1 subjects refused:\n  ted: "):
        open_subjects(folder, prompts="auto", quick=False)
