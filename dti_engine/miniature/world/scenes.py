"""Scenes of the world: its figures and their places; `drawing` turns a scene into an image.

Examples, the training data, are pure functions of a seed. None shows a look whose description is
held out (`vocabulary.held_out_descriptions`). A `portrait` shows any look.
"""

import random
from dataclasses import dataclass

from dti_engine.miniature.world.vocabulary import (
    ACCESSORIES,
    BACKGROUNDS,
    STYLES,
    Look,
    accessorize,
    article,
    breeds,
    caption,
    describe,
    held_out_descriptions,
    random_look,
)

VALIDATION_SEED = 1_000_000_000  # training seeds stay below it

PAIR_SHARE = 0.3  # two things in one image
BREED_SHARE = 0.45  # things named by their breed instead of described
ACCESSORY_SHARE = 0.45  # things with an accessory
CLASS_WORD_SHARE = 0.1  # described things that the caption only calls "a dog"
UNNAMED_BACKGROUND_SHARE = 0.15  # so that "a photo of X" means any background

# In pixels of a 64 px image: the place of a thing, and the half width of its box.
_SPOTS = {"left": (16.5, 14.5), "centre": (32.0, 22.5), "right": (47.5, 14.5)}


@dataclass(frozen=True, slots=True)
class Figure:
    """A thing in a scene: its look, its accessory, and its incidental pose.

    x, y: its middle, size: half its box, all in pixels of a 64 px image.
    """

    look: Look
    place: str
    accessory: str
    x: float
    y: float
    size: float
    flipped: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """Figures from left to right, a background and a style.

    jitter: in [0, 1), varies incidental details.
    """

    figures: tuple[Figure, ...]
    background: str
    style: str
    jitter: float


def figure(look: Look, place: str, accessory: str, rng: random.Random) -> Figure:
    """Return the look at its place, slightly moved, scaled and perhaps mirrored."""
    x, size = _SPOTS[place]
    return Figure(
        look=look,
        place=place,
        accessory=accessory,
        x=x + rng.uniform(-1.5, 1.5) * size / 20,
        y=37.0 + rng.uniform(-2.0, 2.0),
        size=size * rng.uniform(0.94, 1.06),
        flipped=rng.random() < 0.5,
    )


def portrait(
    look: Look,
    rng: random.Random,
    *,
    background: str | None = None,
    style: str = "photo",
    accessory: str = "none",
) -> Scene:
    """Return a scene of one look in the centre, as on a user's photo; background None: any."""
    background = background or rng.choice(BACKGROUNDS)
    return Scene((figure(look, "centre", accessory, rng),), background, style, rng.random())


@dataclass(frozen=True, slots=True)
class Example:
    """A scene, a caption of it, and the attributes that it asks for: question -> answer."""

    scene: Scene
    caption: str
    asked: dict[str, str]


def example(seed: int) -> Example:
    """Return a scene and its caption, as a pure function of `seed`."""
    # The order of all draws is fixed: example i must be the one that the weights were trained with,
    # on any machine. Python's generator is the same on all of them.
    rng = random.Random(seed)
    places = ("left", "right") if rng.random() < PAIR_SHARE else ("centre",)
    figures: list[Figure] = []
    names: list[str] = []
    asked: dict[str, str] = {}
    for place in places:
        look, name, questions = _named_look(rng)
        accessory = rng.choice(ACCESSORIES[1:]) if rng.random() < ACCESSORY_SHARE else "none"
        figures.append(figure(look, place, accessory, rng))
        names.append(accessorize(name, accessory))
        asked |= {f"{place}.{question}": getattr(look, question) for question in questions}
        asked[f"{place}.accessory"] = accessory
    background, style = rng.choice(BACKGROUNDS), rng.choice(STYLES)
    scene = Scene(tuple(figures), background, style, rng.random())
    named_background = None if rng.random() < UNNAMED_BACKGROUND_SHARE else background
    asked |= {"style": style} | ({"background": background} if named_background else {})
    return Example(scene, caption(names, named_background, style, rng), asked)


def _named_look(rng: random.Random) -> tuple[Look, str, tuple[str, ...]]:
    """Return a look, its name in the caption, and the attributes that the name tells."""
    if rng.random() < BREED_SHARE:
        word, look = rng.choice(list(breeds().items()))
        return look, article(word), ("kind", "primary", "secondary", "pattern")
    look = random_look(rng)
    while look.description in held_out_descriptions():
        look = random_look(rng)
    if rng.random() < CLASS_WORD_SHARE:
        return look, article(look.kind), ("kind",)
    questions = (
        ("kind", "primary", "pattern")
        if look.pattern == "plain"
        else ("kind", "primary", "secondary", "pattern")
    )
    return look, describe(look), questions
