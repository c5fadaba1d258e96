"""Subjects, prompts and numbers each have a seed of their own, the same everywhere."""

from itertools import product

from dti_engine.evaluation.protocol import image_seed, training_seed
from dti_engine.miniature.world.subjects import held_out_subjects

NAMES = [each.name for part in ("evaluation", "settings") for each in held_out_subjects(part)]


def test_no_two_trainings_and_no_two_images_share_a_seed() -> None:
    trainings = {training_seed(*each) for each in product((0, 1), NAMES, range(4))}
    images = {image_seed(*each) for each in product((0, 1), NAMES, range(8), range(4))}
    assert len(trainings) == 2 * len(NAMES) * 4
    assert len(images) == 2 * len(NAMES) * 8 * 4
    assert trainings.isdisjoint(images)


def test_seeds_are_the_same_on_every_machine_and_fit_every_generator() -> None:
    assert training_seed(0, "car-0", 1) == 2703787494
    assert image_seed(0, "car-0", 7, 1) == 1967168431
    assert all(0 <= training_seed(2**40, name, 0) < 2**32 for name in NAMES)
