"""Rows differ by their words alone: the noise of a prompt and seed is the same in all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.evaluation.photographs import PhotographDomain, PhotographedSubject
from dti_engine.evaluation.protocol import PhotographProtocol
from dti_engine.evaluation.rows import EvaluationImage, TableRow, TokenKey, row_images
from dti_engine.evaluation.scoring import ImageEvaluator
from dti_engine.evaluation.store import EvaluationStore
from dti_engine.recipes import sd
from dti_engine.scorers.dinov2 import Dinov2, likeness, masked
from dti_engine.scorers.siglip import Siglip
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude

WORD, DTI = (
    TableRow("class_word", "word", "word"),
    TableRow("dti", "dti", "DTI", TokenKey("dti")),
)
RESCALED = TableRow("ti_rescaled", "ti-rescaled", "TI-rescaled", TokenKey("dti"), length=1.0)
ENCODER = "text_encoder"


@pytest.fixture(scope="module")
def rex(make_subjects: Callable[..., Path]) -> PhotographedSubject:
    return PhotographedSubject.open(
        make_subjects() / "rex",
        name="rex",
        placeholder="<rex>",
        initializer="dog",
        num_vectors=None,
        class_noun=None,
        captions=None,
        prompts=["a {} on the beach", "a painting of a {}"],
    )


@pytest.fixture
def store(
    tmp_path: Path,
    rex: PhotographedSubject,
    tiny_backbone: Backbone,
    artifact_of: Callable[..., Artifact],
) -> EvaluationStore:
    """Return a store with a token that equals the class noun, where every method starts."""
    store = EvaluationStore(tmp_path, {})
    rows = initializer_rows(tiny_backbone.text_encoders[ENCODER], "dog")
    artifact_of({ENCODER: rows}).save(store.token(TokenKey("dti"), rex.name, 0))
    return store


@pytest.fixture
def evaluator(
    store: EvaluationStore, tiny_backbone: Backbone, tiny_scorers: Path, rex: PhotographedSubject
) -> ImageEvaluator:
    protocol = PhotographProtocol.standard(sd(), is_flow=False, changes={"image_steps": 2})
    domain = PhotographDomain(
        [rex],
        protocol,
        Dinov2.load(tiny_scorers / "dinov2-base"),
        Siglip.load(tiny_scorers / "siglip-base-patch16-512"),
    )
    return ImageEvaluator(tiny_backbone, domain, protocol, store, batch_size=3)


def _images(row: TableRow, num_prompts: int = 2, num_seeds: int = 2) -> list[EvaluationImage]:
    return list(
        row_images(row, {"rex": num_prompts}, num_training_seeds=1, num_image_seeds=num_seeds)
    )


def test_the_same_word_gives_the_same_images_in_every_row(
    evaluator: ImageEvaluator, store: EvaluationStore
) -> None:
    of_rows = [_images(row) for row in (WORD, DTI)]
    for each in of_rows:
        evaluator.score_missing(each, on_images=lambda done: None)
    for word, token in zip(*of_rows, strict=True):
        images = (Image.open(store.image(image)) for image in (word, token))
        assert ImageChops.difference(*images).getbbox() is None
        word_score, token_score = (store.scores[image.key] for image in (word, token))
        assert word_score.model_dump(exclude={"image", "row"}) == token_score.model_dump(
            exclude={"image", "row"}
        )
    images = [Image.open(store.image(image)) for image in of_rows[0]]
    assert all(ImageChops.difference(images[0], each).getbbox() for each in images[1:])


def test_both_subject_scores_are_the_scorers(
    evaluator: ImageEvaluator, store: EvaluationStore, rex: PhotographedSubject, tiny_scorers: Path
) -> None:
    word_images = _images(WORD)
    evaluator.score_missing(word_images, on_images=lambda done: None)
    dinov2, photos = Dinov2.load(tiny_scorers / "dinov2-base"), rex.images()
    plain = dinov2.features([each.image for each in photos])
    on_black = dinov2.features([masked(each) for each in photos])
    for image in word_images:
        own = dinov2.features([Image.open(store.image(image))])
        score = store.scores[image.key]
        assert score.subject_score == pytest.approx(likeness(own, plain)[0], abs=1e-5)
        assert score.masked_subject_score == pytest.approx(likeness(own, on_black)[0], abs=1e-5)


def test_a_rescaled_token_has_the_vocabularys_length(
    evaluator: ImageEvaluator, tiny_backbone: Backbone
) -> None:
    (image, *_) = _images(RESCALED)
    request = evaluator._request(image)
    rows = request.tokens["<rex>"].embeddings[ENCODER]
    m = vocabulary_magnitude(tiny_backbone.text_encoders[ENCODER])
    torch.testing.assert_close(rows.norm(dim=-1), torch.full((len(rows),), m))


def test_finished_images_are_neither_missing_nor_reported_again(
    evaluator: ImageEvaluator,
) -> None:
    progress: list[int] = []
    assert list(map(len, evaluator.missing(_images(WORD)))) == [3, 1]
    evaluator.score_missing(_images(WORD), on_images=progress.append)
    evaluator.score_missing(_images(WORD), on_images=progress.append)
    assert progress == [3, 1]
    assert evaluator.missing(_images(WORD)) == []


@pytest.mark.parametrize("row", [WORD, DTI, RESCALED], ids=lambda row: row.name)
def test_a_prompt_is_encoded_once_for_all_batches(
    row: TableRow,
    evaluator: ImageEvaluator,
    tiny_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    encode = type(tiny_backbone).encode_prompts

    def counting(backbone: Backbone, *inputs: Any) -> Any:
        read.append(1)
        return encode(backbone, *inputs)

    monkeypatch.setattr(type(tiny_backbone), "encode_prompts", counting)
    images = _images(row, num_prompts=1, num_seeds=8)
    evaluator.score_missing(images, on_images=lambda done: None)
    assert len(evaluator._store.scores) == 8
    assert len(read) == 1


def test_flow_models_are_generated_in_fewer_steps() -> None:
    flow, noise = (
        PhotographProtocol.standard(sd(), is_flow=each, changes={}) for each in (True, False)
    )
    assert (flow.image_steps, flow.guidance) == (20, 4.5)
    assert (noise.image_steps, noise.guidance) == (50, 5.0)
