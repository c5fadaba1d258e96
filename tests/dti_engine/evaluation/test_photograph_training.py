"""Tokens that an evaluation lacks are trained, and go on where they were stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dti_engine.backbones.interface import Backbone
from dti_engine.cli.photograph_study import open_subjects
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.photographs import PhotographDomain, PhotographedSubject
from dti_engine.evaluation.protocol import PhotographProtocol
from dti_engine.evaluation.rows import TokenKey
from dti_engine.evaluation.store import EvaluationStore
from dti_engine.evaluation.training import train_missing, training_runs
from dti_engine.recipes import sd

CONFIG = sd().changed(steps=4, batch_size=1, resolution=16)
PROTOCOL = PhotographProtocol.standard(CONFIG, is_flow=False, changes={"num_training_seeds": 2})
NO_SCORERS: Any = (None, None)  # training does not score


@pytest.fixture(scope="module")
def subjects(make_subjects: Callable[..., Path]) -> list[PhotographedSubject]:
    return open_subjects(make_subjects(), prompts="auto", quick=True)


def _train(
    backbone: Backbone,
    folder: Path,
    subjects: list[PhotographedSubject],
    on_steps: Callable[[int], None],
) -> EvaluationStore:
    store = EvaluationStore(folder, {})
    domain = PhotographDomain(subjects, PROTOCOL, *NO_SCORERS)
    train_missing(
        backbone,
        domain,
        store,
        [TokenKey("dti")],
        CONFIG,
        training_runs(list(domain.subjects), 2),
        num_slots=1,
        checkpoints=store.checkpoints("dti", every=2),
        on_steps=on_steps,
    )
    return store


def test_a_stopped_training_resumes_from_its_checkpoints(
    tiny_backbone: Backbone,
    subjects: list[PhotographedSubject],
    tmp_path: Path,
) -> None:
    whole = _train(tiny_backbone, tmp_path / "whole", subjects, lambda done: None)

    def stop(done: int) -> None:
        if done >= 7:  # in the second of four
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(tiny_backbone, tmp_path / "part", subjects, stop)
    assert len(list((tmp_path / "part" / "checkpoints" / "dti").iterdir())) == 1
    progress: list[int] = []
    part = _train(tiny_backbone, tmp_path / "part", subjects, progress.append)
    assert progress[0] == 4
    assert progress[-1] == 16
    for subject in subjects:
        tokens = []
        for seed in range(2):
            one, other = (
                each.load_token(TokenKey("dti"), subject.name, seed).token for each in (whole, part)
            )
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
