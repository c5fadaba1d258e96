"""The qualities that an evaluation on the shipped weights needs to mean anything."""

import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import fmean

import pytest
from torch import Tensor

from dti_engine.backbones import load_backbone
from dti_engine.backbones.checkpoint import MINIATURE
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.evaluation.encoder_effects import effects
from dti_engine.evaluation.miniature import scene, through_autoencoder
from dti_engine.evaluation.protocol import MiniatureProtocol
from dti_engine.images.decode import load_images
from dti_engine.miniature.scorer import ScoredImage, load_scorer, read
from dti_engine.miniature.world.subjects import draw_subject, evaluation_prompts, held_out_subjects
from dti_engine.optim import sphere
from dti_engine.training.loop import Subject, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not MINIATURE.is_dir(), reason="the miniature's weights are not in this checkout"
    ),
]

SUBJECTS = held_out_subjects("evaluation")
PROMPTS = evaluation_prompts()


@pytest.fixture(scope="module")
def miniature() -> Iterator[Backbone]:
    return load_backbone("miniature")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ScoredImage]]:
    """Each subject's photos, as the scorer reads them."""
    scorer, folder = load_scorer(MINIATURE / "scorer.safetensors"), tmp_path_factory.mktemp("drawn")
    found: dict[str, list[ScoredImage]] = {}
    for subject in SUBJECTS:
        draw_subject(subject, folder / subject.name)
        subject_images = load_images(Path(folder / subject.name))
        found[subject.name] = read(scorer, [each.image for each in subject_images])
    return found


def test_the_ceiling_is_far_above_the_similarity_of_different_subjects(
    miniature: Backbone, photos: dict[str, list[ScoredImage]]
) -> None:
    scorer = load_scorer(MINIATURE / "scorer.safetensors")
    likenesses: list[float] = []
    obeyed: list[float] = []
    for subject in SUBJECTS:
        scenes = [scene(prompt, subject.look, seed=subject.name) for prompt in PROMPTS]
        readings = read(scorer, through_autoencoder(miniature, scenes))
        for prompt, reading in zip(PROMPTS, readings, strict=True):
            obeyed.append(reading.shows(prompt.asked))
            likenesses += [
                reading.likeness(photo, place=prompt.place) for photo in photos[subject.name]
            ]
    different = combinations(photos.values(), 2)
    others = [a.likeness(b) for one, other in different for a in one for b in other]
    assert fmean(obeyed) > 0.95
    assert fmean(likenesses) > 2 * fmean(others)


def test_long_embeddings_lose_their_position_in_its_text_encoder(miniature: Backbone) -> None:
    found = effects(miniature, [prompt.template for prompt in PROMPTS], ["dog", "car"])
    accuracy = {each.scale: each.position_accuracy for each in found.at_scale}
    assert accuracy[1.0] > 0.95
    assert accuracy[16.0] < 0.3
    shift = {each.scale: each.position_shift for each in found.at_scale}
    # Lemma 1: from where positions are small, they move what is read by 1 / length.
    assert shift[1.0] > 0.25
    assert shift[64.0] == pytest.approx(shift[16.0] / 4, rel=0.02)


def test_settings_of_dti_end_apart_though_a_small_prior_is_not_felt(
    miniature: Backbone, tmp_path: Path
) -> None:
    """Measured after 30 steps: 0.8 degrees and more between settings, 0.2 in the control."""
    draw_subject(SUBJECTS[0], tmp_path)
    subject_images = load_images(tmp_path)
    subject = Subject("a", subject_images, SUBJECTS[0].placeholder, SUBJECTS[0].class_word, seed=0)

    def end(config: TrainConfig) -> Tensor:
        short = config.changed(steps=30, batch_size=1)
        (ended,) = train(miniature, [subject], short, num_slots=1)
        assert ended.artifact
        return ended.artifact.token.directions()["text_encoder"]

    def degrees(one: Tensor, other: Tensor) -> float:
        return math.degrees(sphere.geodesic_distance(one, other).item())

    settings = MiniatureProtocol.standard().settings["dti"]
    ends = [end(config) for config in settings]
    assert all(degrees(one, other) > 0.4 for one, other in combinations(ends, 2))
    control = end(settings[0].changed(kappa=1e-3))
    assert settings[0].kappa == 1e-4
    assert 0 < degrees(ends[0], control) < 0.4
