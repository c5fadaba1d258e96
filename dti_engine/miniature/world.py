"""Scenes of the world: what is where. Everything is a pure function of a seed; `drawing` turns a scene into a picture.

No scene ever shows a look whose description is held out (`looks.held_out_descriptions`), unless asked for by name.
"""

import random
from dataclasses import dataclass

from dti_engine.miniature.captions import accessorize, article, caption, describe
from dti_engine.miniature.looks import (
    ACCESSORIES,
    BACKGROUNDS,
    STYLES,
    Look,
    breeds,
    held_out_descriptions,
    random_look,
)

PAIR_SHARE = 0.3  # two things in one picture
BREED_SHARE = 0.45  # things called by their breed's word rather than described
UNNAMED_BACKGROUND_SHARE = 0.15  # so that "a photo of X" means any background


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing in a scene: its look, where it stands, what it wears, and how it happens to be seen."""

    look: Look
    place: str
    accessory: str
    x: float
    y: float
    size: float
    flipped: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """Figures from left to right before a background, in a style; `jitter` moves what does not matter."""

    figures: tuple[Figure, ...]
    background: str
    style: str
    jitter: float


def figure(look: Look, place: str, accessory: str, rng: random.Random) -> Figure:
    """A figure at its place, in pixels of a 64 px picture, slightly moved, scaled and perhaps mirrored."""
    x, size = {"left": (16.5, 14.5), "centre": (32.0, 22.5), "right": (47.5, 14.5)}[place]
    return Figure(
        look=look,
        place=place,
        accessory=accessory,
        x=x + rng.uniform(-1.5, 1.5) * size / 20,
        y=37.0 + rng.uniform(-2.0, 2.0),
        size=size * rng.uniform(0.94, 1.06),
        flipped=rng.random() < 0.5,
    )


def portrait(look: Look, rng: random.Random, *, background: str | None = None, style: str = "photo",
             accessory: str = "none") -> Scene:  # fmt: skip
    """One look alone in the centre, as on a user's photo."""
    background = background or rng.choice(BACKGROUNDS)
    return Scene((figure(look, "centre", accessory, rng),), background, style, rng.random())


@dataclass(frozen=True, slots=True)
class Example:
    """A scene, one caption of it, and what the caption asks for: question of `labels` -> answer."""

    scene: Scene
    caption: str
    asked: dict[str, str]


def example(seed: int) -> Example:
    """One scene and its caption, a pure function of `seed`."""
    rng = random.Random(seed)
    places = ("left", "right") if rng.random() < PAIR_SHARE else ("centre",)
    figures: list[Figure] = []
    names: list[str] = []
    asked: dict[str, str] = {}
    for place in places:
        look, name, told = _named_look(rng)
        accessory = rng.choice(ACCESSORIES[1:]) if rng.random() < 0.45 else "none"
        figures.append(figure(look, place, accessory, rng))
        names.append(accessorize(name, accessory))
        asked |= {f"{place}.{question}": getattr(look, question) for question in told}
        asked[f"{place}.accessory"] = accessory
    background, style = rng.choice(BACKGROUNDS), rng.choice(STYLES)
    scene = Scene(tuple(figures), background, style, rng.random())
    named_background = None if rng.random() < UNNAMED_BACKGROUND_SHARE else background
    asked |= {"style": style} | ({"background": background} if named_background else {})
    return Example(scene, caption(names, named_background, style, rng), asked)


def _named_look(rng: random.Random) -> tuple[Look, str, tuple[str, ...]]:
    """A look, what the caption calls it, and which of its attributes that tells."""
    if rng.random() < BREED_SHARE:
        word, look = rng.choice(list(breeds().items()))
        return look, article(word), ("kind", "primary", "secondary", "pattern")
    look = random_look(rng)
    while look.description in held_out_descriptions():
        look = random_look(rng)
    if rng.random() < 0.1:  # the bare class word, over any look
        return look, article(look.kind), ("kind",)
    told = ("kind", "primary", "pattern") if look.pattern == "plain" else ("kind", "primary", "secondary", "pattern")
    return look, describe(look), told
