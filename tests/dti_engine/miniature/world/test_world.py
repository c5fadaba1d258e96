"""The miniature's world: seeds, captions, what is held out."""

import hashlib
from collections import Counter

from dti_engine.miniature.scorer import QUESTIONS, labels
from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.scenes import VALIDATION_SEED, example
from dti_engine.miniature.world.vocabulary import (
    ACCESSORY_PHRASES,
    COLOURS,
    KINDS,
    NUM_BREEDS_PER_KIND,
    NUM_HELD_OUT_PER_KIND,
    article,
    breeds,
    describe,
    held_out_descriptions,
    held_out_looks,
)

SEEDS = (*range(20), *range(VALIDATION_SEED, VALIDATION_SEED + 20))


def digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]


def test_the_world_is_the_one_that_weights_were_trained_on() -> None:
    examples = [example(seed) for seed in SEEDS]

    # Whoever changes one of these changes the world: all weights must then be made anew.
    assert digest([each.caption.encode() for each in examples]) == "2818501807c3bc0a"
    assert digest([repr(labels(each.scene)).encode() for each in examples]) == "3ffda111ca9c5a70"
    assert digest([draw(each.scene).tobytes() for each in examples]) == "4b8d4ceb4512a958"
    assert digest([repr(each).encode() for each in breeds().items()]) == "4f33f95422092eac"
    assert digest([repr(each).encode() for each in held_out_looks()]) == "ec2951b53da71fe8"


def test_an_example_depends_on_its_seed_alone() -> None:
    before = [example(seed) for seed in range(50)]
    after = [example(seed) for seed in reversed(range(50))]

    assert before == after[::-1]
    assert len({repr(each) for each in before}) == 50


def test_no_example_shows_or_names_a_held_out_look() -> None:
    names = [describe(look).split(" ", 1)[1] for look in held_out_looks()]

    for each in map(example, range(20_000)):
        shown = {figure.look.description for figure in each.scene.figures}
        assert shown.isdisjoint(held_out_descriptions())
        assert not any(name in each.caption for name in names)


def test_breeds_and_held_out_looks_are_as_many_as_stated_and_all_different() -> None:
    named = Counter(look.kind for look in breeds().values())
    held_out = Counter(look.kind for look in held_out_looks())
    descriptions = {look.description for look in (*breeds().values(), *held_out_looks())}

    assert named == dict.fromkeys(KINDS, NUM_BREEDS_PER_KIND)
    assert held_out == dict.fromkeys(KINDS, NUM_HELD_OUT_PER_KIND)
    assert len(descriptions) == named.total() + held_out.total()


def test_a_breeds_word_means_nothing_else() -> None:
    plain = {*KINDS, *COLOURS, *" ".join(ACCESSORY_PHRASES.values()).split()}
    described = [each.caption for each in map(example, range(500))]
    known = set(" ".join(described).replace(",", "").split()) - breeds().keys()

    assert breeds().keys().isdisjoint(plain)
    assert not any(word in "".join(sorted(known)) for word in breeds())


def test_a_scene_shows_what_its_caption_asks_for() -> None:
    for each in map(example, range(2000)):
        shown = dict(zip(QUESTIONS, labels(each.scene), strict=True))
        for question, answer in each.asked.items():
            assert QUESTIONS[question][shown[question]] == answer


def test_figures_stand_where_the_caption_says() -> None:
    pairs = [each for each in map(example, range(500)) if len(each.scene.figures) == 2]

    assert pairs
    for each in pairs:
        left, right = each.scene.figures
        assert (left.place, right.place) == ("left", "right")
        assert left.x < right.x


def test_articles_follow_the_sound() -> None:
    assert article("orange dog") == "an orange dog"
    assert article("dog") == "a dog"
