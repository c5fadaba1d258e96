"""Subjects that the miniature has never seen, and prompts for them.

The held-out looks are divided once, so that settings are never chosen on the subjects that results
are reported on.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from dti_engine.files import atomic_write
from dti_engine.miniature.world.drawing import draw, png_bytes
from dti_engine.miniature.world.scenes import portrait
from dti_engine.miniature.world.vocabulary import (
    ACCESSORY_PHRASES,
    BACKGROUNDS,
    PLACE_PHRASES,
    STYLE_PHRASES,
    Look,
    held_out_looks,
)

_PARTS = {"evaluation": slice(0, 12), "settings": slice(12, 18), "demo": slice(24, 28)}


@dataclass(frozen=True, slots=True)
class HeldOutSubject:
    """A look without a word of its own, and its name as folder and placeholder."""

    name: str
    look: Look

    @property
    def placeholder(self) -> str:
        return f"<{self.name}>"

    @property
    def class_word(self) -> str:
        """Return the word that a user would give as initializer."""
        return self.look.kind


def held_out_subjects(part: str) -> list[HeldOutSubject]:
    """Return the subjects of `evaluation` (12, one of each kind), `settings` (6) or `demo` (4)."""
    first = _PARTS[part].start
    looks = held_out_looks()[_PARTS[part]]
    return [HeldOutSubject(f"{look.kind}-{first + i}", look) for i, look in enumerate(looks)]


def draw_subject(subject: HeldOutSubject, folder: Path, *, count: int = 5) -> None:
    """Write `count` PNG photos of the subject into `folder`, each with another background."""
    rng = random.Random(subject.name)
    for i, background in enumerate(rng.sample(BACKGROUNDS, count)):
        image = draw(portrait(subject.look, rng, background=background))
        atomic_write(folder / f"{i:02d}.png", png_bytes(image))


@dataclass(frozen=True, slots=True)
class WorldPrompt:
    """A prompt with `{}` for the subject, its attributes, and the place of the subject."""

    template: str
    asked: dict[str, str]
    place: str = "centre"


def _alone(style: str, background: str, accessory: str = "none") -> WorldPrompt:
    wearing = f" {ACCESSORY_PHRASES[accessory]}" if accessory != "none" else ""
    template = f"{STYLE_PHRASES[style]} a {{}}{wearing} {PLACE_PHRASES[background]}"
    asked = {"style": style, "background": background}
    return WorldPrompt(template, asked | ({"centre.accessory": accessory} if wearing else {}))


def evaluation_prompts() -> list[WorldPrompt]:
    """Return eight prompts: places, accessories, styles, combinations, and two with sides."""
    return [
        _alone("photo", "beach"),
        _alone("photo", "space", "hat"),
        _alone("cartoon", "forest"),
        _alone("watercolor", "snow", "balloon"),
        _alone("mosaic", "desert", "scarf"),
        WorldPrompt(
            "a {} with a flag in a city, cartoon style",
            {"style": "cartoon", "background": "city", "centre.accessory": "flag"},
        ),
        WorldPrompt(
            "a photo of a {} on the left and a red house on the right on a meadow",
            {"background": "meadow", "style": "photo",
             "right.kind": "house", "right.primary": "red"},
            place="left",
        ),
        WorldPrompt(
            "a cartoon of a yellow car next to a {} wearing a hat in the snow",
            {"background": "snow", "style": "cartoon", "left.kind": "car", "left.primary": "yellow",
             "right.accessory": "hat"},
            place="right",
        ),
    ]  # fmt: skip


def demo_prompts() -> list[WorldPrompt]:
    """Return six prompts: background, accessory, style, and combinations."""
    return [
        _alone("photo", "beach"),
        _alone("photo", "meadow", "hat"),
        _alone("cartoon", "city"),
        _alone("watercolor", "snow", "balloon"),
        _alone("mosaic", "forest", "scarf"),
        WorldPrompt(
            "a photo of a {} on the left and a blue mug on the right in space",
            {"background": "space", "style": "photo", "right.kind": "mug", "right.primary": "blue"},
            place="left",
        ),
    ]


def validation_prompts() -> list[WorldPrompt]:
    """Return four prompts to validate a token with, none of them used in reported results."""
    return [
        _alone("photo", "meadow"),
        _alone("cartoon", "beach"),
        _alone("photo", "snow", "hat"),
        _alone("watercolor", "city"),
    ]
