"""Images are generated once, with the noise of their prompt, and scored as they lie on disk."""

import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.evaluation.miniature import MiniatureDomain
from dti_engine.evaluation.protocol import MiniatureProtocol
from dti_engine.evaluation.rows import (
    EvaluationImage,
    TableRow,
    TokenKey,
    row_images,
    token_row,
    untrained_row,
)
from dti_engine.evaluation.scoring import ImageEvaluator, rescaled
from dti_engine.evaluation.store import EvaluationStore
from dti_engine.evaluation.study import Study
from dti_engine.evaluation.training import SubjectTraining, train_missing
from dti_engine.images.png import read_settings
from dti_engine.miniature.scorer import Scorer, read
from dti_engine.miniature.world.subjects import evaluation_prompts, held_out_subjects
from dti_engine.miniature.world.vocabulary import describe
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude
from dti_engine.text.tokens import LearnedToken

SUBJECT, OTHER = held_out_subjects("evaluation")[1:3]
LEARNED = TokenKey("ti-0", 4)
ROWS = [
    *map(untrained_row, ("class_word", "description", "drawing")),
    token_row("ti", LEARNED),
    token_row("ti_rescaled", LEARNED, 1.0),
    token_row("lengthened", LEARNED, 8.0),
]


@pytest.fixture(scope="module")
def evaluator_of(
    evaluation_backbone: Backbone, evaluation_scorer: Scorer, tiny_protocol: MiniatureProtocol
) -> Callable[..., ImageEvaluator]:
    """evaluator_of(store, protocol=tiny_protocol) -> one whose subjects have photos."""

    def make(store: EvaluationStore, protocol: MiniatureProtocol = tiny_protocol) -> ImageEvaluator:
        domain = MiniatureDomain(
            evaluation_backbone, evaluation_scorer, [SUBJECT, OTHER], store, seed=protocol.seed
        )
        domain.draw_references()
        return ImageEvaluator(
            evaluation_backbone, domain, protocol, store, batch_size=protocol.batch_size
        )

    return make


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory,
    evaluation_backbone: Backbone,
    tiny_protocol: MiniatureProtocol,
    evaluator_of: Callable[..., ImageEvaluator],
) -> EvaluationStore:
    """One subject, scored in all rows from 2 image seeds."""
    store = EvaluationStore(tmp_path_factory.mktemp("scoring"), {})
    evaluator = evaluator_of(store)
    train_missing(
        evaluation_backbone,
        evaluator._domain,
        store,
        [LEARNED],
        tiny_protocol.settings["ti"][0],
        [SubjectTraining(SUBJECT.name, 0)],
        num_slots=1,
        on_steps=lambda _: None,
    )
    evaluator.score_missing(_all_images(), on_images=lambda _: None)
    return store


def _all_images() -> list[EvaluationImage]:
    return [
        image
        for row in ROWS
        for image in row_images(row, {SUBJECT.name: 8}, num_training_seeds=1, num_image_seeds=2)
    ]


def _image(row: int, subject: str = SUBJECT.name, *, seed: int = 0) -> EvaluationImage:
    return EvaluationImage(ROWS[row], subject, 0, image_seed=seed)


def test_every_image_is_saved_and_scored(store: EvaluationStore) -> None:
    assert store.scores.keys() == {image.key for image in _all_images()}
    assert all(store.image(image).exists() for image in _all_images())


def test_scores_are_those_of_the_images_on_disk(
    store: EvaluationStore, evaluation_scorer: Scorer
) -> None:
    photos = [Image.open(path) for path in sorted(store.references(SUBJECT.name).glob("*.png"))]
    assert len(photos) == 5
    found: set[float] = set()
    for image in _all_images():
        prompt, score = evaluation_prompts()[image.prompt], store.scores[image.key]
        (reading,) = read(evaluation_scorer, [Image.open(store.image(image))])
        likeness = fmean(
            reading.likeness(each, place=prompt.place) for each in read(evaluation_scorer, photos)
        )
        assert score.subject_score == pytest.approx(likeness, abs=1e-6)
        assert score.prompt_score == reading.shows(prompt.asked)
        found.add(score.subject_score)
    assert len(found) > 10  # the scorer does tell images apart


def test_a_prompt_has_the_same_noise_in_every_row(store: EvaluationStore) -> None:
    seeds = {
        (image.prompt, image.image_seed, read_settings(store.image(image))["seed"])
        for image in _all_images()
    }
    assert len(seeds) == len({seed for _, _, seed in seeds}) == 8 * 2


def test_another_subject_has_another_noise(
    store: EvaluationStore, evaluator_of: Callable[..., ImageEvaluator]
) -> None:
    of_both = [_image(0, subject.name) for subject in (SUBJECT, OTHER)]
    evaluator_of(store).score_missing(of_both, on_images=lambda _: None)
    first, second = (read_settings(store.image(image))["seed"] for image in of_both)
    assert first != second


def test_rows_put_different_things_into_the_same_prompt(store: EvaluationStore) -> None:
    images = {store.image(_image(row)).read_bytes()[-200:] for row in range(len(ROWS))}
    assert len(images) == len(ROWS)


def test_lengths_are_those_of_the_vectors_that_name_the_subject(
    store: EvaluationStore,
    evaluation_backbone: Backbone,
    tiny_protocol: MiniatureProtocol,
    evaluator_of: Callable[..., ImageEvaluator],
) -> None:
    (encoder,) = evaluation_backbone.text_encoders.values()
    token = store.load_token(LEARNED, SUBJECT.name, 0).token
    domain = evaluator_of(store)._domain
    study = Study(evaluation_backbone, domain, tiny_protocol, store, batch_size=8)
    word, learned, rescaled_token, lengthened = (
        study.lengths(ROWS[index], [SUBJECT.name])["text_encoder"] for index in (0, 3, 4, 5)
    )
    m = vocabulary_magnitude(encoder)
    assert word == pytest.approx(float(initializer_rows(encoder, SUBJECT.class_word).norm()) / m)
    assert learned == pytest.approx(float(token.embeddings["text_encoder"].norm()) / m)
    assert (rescaled_token, lengthened) == (1.0, 8.0)


def test_tokens_are_generated_with_at_the_length_of_their_row(
    store: EvaluationStore,
    evaluation_backbone: Backbone,
    evaluator_of: Callable[..., ImageEvaluator],
) -> None:
    (encoder,) = evaluation_backbone.text_encoders.values()
    evaluator = evaluator_of(store)
    for index, length in ((4, 1.0), (5, 8.0)):
        (token,) = evaluator._request(_image(index)).tokens.values()
        expected = length * vocabulary_magnitude(encoder)
        assert float(token.embeddings["text_encoder"].norm()) == pytest.approx(expected)


def test_rows_name_the_subject_in_their_own_way(
    store: EvaluationStore, evaluator_of: Callable[..., ImageEvaluator]
) -> None:
    domain = evaluator_of(store)._domain
    images = [EvaluationImage(row, SUBJECT.name, 7, image_seed=0) for row in ROWS]
    description = describe(SUBJECT.look)
    assert [domain.prompt(image) for image in images] == [
        f"a cartoon of a yellow car next to {name} wearing a hat in the snow"
        for name in (
            f"a {SUBJECT.class_word}",
            description,
            description,
            *[f"a {SUBJECT.placeholder}"] * 3,
        )
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
def test_every_prompt_has_room_for_every_row(
    row: TableRow, store: EvaluationStore, evaluator_of: Callable[..., ImageEvaluator]
) -> None:
    domain = evaluator_of(store)._domain
    for subject in (SUBJECT, OTHER):
        for index, template in enumerate(domain.prompts(subject.name)):
            prompt = domain.prompt(EvaluationImage(row, subject.name, index, image_seed=0))
            assert "{}" not in prompt
            assert prompt != template


def test_scored_images_are_not_generated_again(
    store: EvaluationStore, evaluator_of: Callable[..., ImageEvaluator]
) -> None:
    path = store.image(_all_images()[0])
    before = path.stat().st_mtime_ns
    counted: list[int] = []
    evaluator = evaluator_of(store)
    evaluator.score_missing(_all_images(), on_images=counted.append)
    assert counted == []
    assert evaluator.missing(_all_images()) == []
    assert path.stat().st_mtime_ns == before


def test_prompts_are_encoded_once_for_all_batches(
    store: EvaluationStore,
    evaluation_backbone: Backbone,
    tiny_protocol: MiniatureProtocol,
    evaluator_of: Callable[..., ImageEvaluator],
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
    evaluator = evaluator_of(EvaluationStore(tmp_path / "copy", {}), protocol)
    for row in (0, 3, 4):
        read.clear()
        images = [_image(row, seed=seed) for seed in range(10, 18)]
        evaluator.score_missing(images, on_images=lambda _: None)
        assert len(read) == 1


def test_rescaling_changes_lengths_only(tmp_path: Path) -> None:
    token = LearnedToken("<rex>", {"a": torch.randn(2, 8), "b": torch.randn(1, 4)})
    found = rescaled(token, {"a": 0.5, "b": 2.0})
    torch.testing.assert_close(found.directions(), token.directions())
    torch.testing.assert_close(
        found.magnitudes(), {"a": torch.tensor([0.5, 0.5]), "b": torch.tensor([2.0])}
    )
