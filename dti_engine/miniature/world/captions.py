"""Captions of scenes, in the words of `vocabulary`, so that a caption can be scored.

Some captions bind words across a distance on purpose: two things with different attributes, left
and right, and a style or a place named far from the thing it applies to. A text encoder must use
its layers to read them.
"""

import random

from dti_engine.miniature.world.vocabulary import Look

PLACE_PHRASES = {
    "beach": "on a beach",
    "forest": "in a forest",
    "snow": "in the snow",
    "city": "in a city",
    "space": "in space",
    "desert": "in a desert",
    "meadow": "on a meadow",
}
STYLE_PHRASES = {
    "photo": "a photo of",
    "cartoon": "a cartoon of",
    "watercolor": "a watercolor of",
    "mosaic": "a mosaic of",
}
ACCESSORY_PHRASES = {
    "none": "",
    "hat": "wearing a hat",
    "scarf": "wearing a scarf",
    "balloon": "with a balloon",
    "flag": "with a flag",
}
_PATTERN_PHRASES = {"striped": "with {} stripes", "spotted": "with {} spots"}


def article(noun_phrase: str) -> str:
    """Return a noun with its article: `dog` -> `a dog`, `orange dog` -> `an orange dog`."""
    return ("an " if noun_phrase[0] in "aeio" else "a ") + noun_phrase


def describe(look: Look) -> str:
    """Return the look in words with its article, such as `a red dog with blue spots`."""
    if look.pattern == "plain":
        return article(f"{look.primary} {look.kind}")
    if look.pattern == "trimmed":
        return article(f"{look.primary} and {look.secondary} {look.kind}")
    return article(
        f"{look.primary} {look.kind} {_PATTERN_PHRASES[look.pattern].format(look.secondary)}"
    )


def accessorize(name: str, accessory: str) -> str:
    """Return a name with its accessory: `a red dog` + `hat` -> `a red dog wearing a hat`."""
    return f"{name} {ACCESSORY_PHRASES[accessory]}".rstrip()


def caption(names: list[str], background: str | None, style: str, rng: random.Random) -> str:
    """Return one caption of a scene.

    names: its things from left to right. An unnamed background is None.
    """
    thing = names[0] if len(names) == 1 else _pair(names[0], names[1], rng)
    place = f" {PLACE_PHRASES[background]}" if background else ""
    if style == "photo" and rng.random() < 0.3:
        return f"{thing}{place}"
    if rng.random() < 0.3:
        return f"{thing}{place}, {style} style"
    if place and rng.random() < 0.15:
        return f"{STYLE_PHRASES[style].removesuffix(' of')}{place}, {thing}"
    return f"{STYLE_PHRASES[style]} {thing}{place}"


def _pair(left: str, right: str, rng: random.Random) -> str:
    forms = (
        f"{left} on the left and {right} on the right",
        f"{right} on the right and {left} on the left",
        f"{left} next to {right}",
        f"{left} to the left of {right}",
        f"{right} to the right of {left}",
    )
    return rng.choice(forms)
