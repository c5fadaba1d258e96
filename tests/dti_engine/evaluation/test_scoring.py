"""Images are generated once, with the noise of their prompt, and scored as they lie on disk."""

import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.evaluation.protocol import Protocol
from dti_engine.evaluation.rows import EvaluationImage, Row, TokenKey, shots
from dti_engine.evaluation.scoring import Examiner, draw_references, rescaled
from dti_engine.evaluation.store import Store
from dti_engine.evaluation.training import Run, train_missing
from dti_engine.generation.pipeline import read_settings
from dti_engine.miniature.scorer import Scorer, read
from dti_engine.miniature.world.subjects import evaluation_prompts, held_out_subjects
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude
from dti_engine.text.tokens import LearnedToken

SUBJECT, OTHER = held_out_subjects("evaluation")[1:3]
LEARNED = TokenKey("ti", 0, 4)
ROWS = [
    *(Row("class_word"), Row("description"), Row("drawing")),
    *(Row.of(LEARNED), Row("ti_rescaled", LEARNED, 1.0), Row("lengthened", LEARNED, 8.0)),
]


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: Protocol,
) -> Store:
    """One subject, scored in all rows from 2 image seeds."""
    store = Store(tmp_path_factory.mktemp("scoring"), {})
    draw_references(store, [SUBJECT])
    train_missing(
        evaluation_backbone,
        store,
        tiny_protocol.settings["ti"][0],
        [LEARNED],
        [Run(SUBJECT, 0)],
        num_slots=1,
        seed=0,
        on_step=lambda _: None,
    )
    examiner = Examiner(evaluation_backbone, evaluation_scorer, tiny_protocol, store)
    examiner.score_missing(_all_shots(), on_images=lambda _: None)
    return store


def _all_shots() -> list[EvaluationImage]:
    return [shot for row in ROWS for shot in shots(row, [SUBJECT], 1, 2)]


def test_every_shot_has_a_image_and_a_score(store: Store) -> None:
    assert store.scores.keys() == {shot.key for shot in _all_shots()}
    assert all(store.image(shot).exists() for shot in _all_shots())


def test_scores_are_those_of_the_images_on_disk(store: Store, evaluation_scorer: Scorer) -> None:
    photos = [Image.open(path) for path in sorted(store.references(SUBJECT).glob("*.png"))]
    assert len(photos) == 5
    found: set[float] = set()
    for shot in _all_shots():
        prompt, score = evaluation_prompts()[shot.prompt], store.scores[shot.key]
        (reading,) = read(evaluation_scorer, [Image.open(store.image(shot))])
        likeness = fmean(
            reading.likeness(each, place=prompt.place) for each in read(evaluation_scorer, photos)
        )
        assert score.subject_score == pytest.approx(likeness, abs=1e-6)
        assert score.prompt_score == reading.shows(prompt.asked)
        found.add(score.subject_score)
    assert len(found) > 10  # the scorer does tell images apart


def test_a_prompt_has_the_same_noise_in_every_row(store: Store) -> None:
    seeds = {
        (shot.prompt, shot.image_seed, read_settings(store.image(shot))["seed"])
        for shot in _all_shots()
    }
    assert len(seeds) == len({seed for _, _, seed in seeds}) == 8 * 2


def test_another_subject_has_another_noise(
    store: Store, evaluation_backbone: Backbone, evaluation_scorer: Scorer, tiny_protocol: Protocol
) -> None:
    of_both = [
        EvaluationImage(Row("class_word"), each, 0, image_seed=0) for each in (SUBJECT, OTHER)
    ]
    draw_references(store, [OTHER])
    examiner = Examiner(evaluation_backbone, evaluation_scorer, tiny_protocol, store)
    examiner.score_missing(of_both, on_images=lambda _: None)
    first, second = (read_settings(store.image(shot))["seed"] for shot in of_both)
    assert first != second


def test_rows_put_different_things_into_the_same_prompt(store: Store) -> None:
    images = {
        store.image(EvaluationImage(row, SUBJECT, 0, image_seed=0)).read_bytes()[-200:]
        for row in ROWS
    }
    assert len(images) == len(ROWS)


def test_norms_are_those_of_what_names_the_subject(
    store: Store, evaluation_backbone: Backbone
) -> None:
    (encoder,) = evaluation_backbone.text_encoders.values()
    token = store.load_token(LEARNED, SUBJECT, 0).token
    norms = [store.scores[EvaluationImage(row, SUBJECT, 0, image_seed=0).key].norm for row in ROWS]
    assert norms == [
        pytest.approx(float(initializer_rows(encoder, SUBJECT.class_word).norm())),
        None,
        None,
        pytest.approx(float(token.embeddings["text_encoder"].norm())),
        pytest.approx(vocabulary_magnitude(encoder)),
        pytest.approx(8 * vocabulary_magnitude(encoder)),
    ]


def test_what_is_scored_is_not_generated_again(
    store: Store, evaluation_backbone: Backbone, evaluation_scorer: Scorer, tiny_protocol: Protocol
) -> None:
    path = store.image(_all_shots()[0])
    before = path.stat().st_mtime_ns
    counted: list[int] = []
    examiner = Examiner(evaluation_backbone, evaluation_scorer, tiny_protocol, store)
    examiner.score_missing(_all_shots(), on_images=counted.append)
    assert counted == [len(_all_shots())]
    assert path.stat().st_mtime_ns == before


def test_prompts_are_read_once_whatever_batches_they_are_in(
    store: Store,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    encode = type(evaluation_backbone).encode_prompts

    def counting(backbone: Backbone, *inputs: Any) -> Any:
        read.append(1)
        return encode(backbone, *inputs)

    monkeypatch.setattr(type(evaluation_backbone), "encode_prompts", counting)
    protocol = tiny_protocol.model_copy(update={"batch_size": 2})
    shutil.copytree(store.folder, tmp_path / "copy")
    copy = Store(tmp_path / "copy", {})
    examiner = Examiner(evaluation_backbone, evaluation_scorer, protocol, copy)
    for row in (ROWS[0], ROWS[3], ROWS[4]):
        read.clear()
        shots = [EvaluationImage(row, SUBJECT, 0, image_seed=seed) for seed in range(10, 18)]
        examiner.score_missing(shots, on_images=lambda _: None)
        assert len(read) == 1


def test_rescaling_changes_lengths_only(tmp_path: Path) -> None:
    token = LearnedToken("<rex>", {"a": torch.randn(2, 8), "b": torch.randn(1, 4)})
    found = rescaled(token, {"a": 0.5, "b": 2.0})
    torch.testing.assert_close(found.directions(), token.directions())
    torch.testing.assert_close(
        found.magnitudes(), {"a": torch.tensor([0.5, 0.5]), "b": torch.tensor([2.0])}
    )
