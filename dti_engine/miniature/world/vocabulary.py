"""The vocabulary of the world: kinds, colours, patterns, looks, their words, and captions of them.

A `Look` is everything about a thing that is the same in all images. A *breed* is one particular
look with a word of its own, so that the vocabulary shows by example that a single token can hold a
look. The *held-out* looks have no word and never appear in training, not even by chance: they are
the subjects of demo and evaluation.

Some captions bind words across a distance on purpose: two things with different attributes, left
and right, and a style or a place named far from the thing it applies to. A text encoder must use
its layers to read them.
"""

import functools
import random
from dataclasses import dataclass

Colour = tuple[int, int, int]

KINDS = (
    "car", "dog", "boat", "tree", "house", "fish",
    "bird", "robot", "mug", "rocket", "mushroom", "flower",
)  # fmt: skip
COLOURS: dict[str, Colour] = {
    "red": (214, 36, 36),
    "orange": (245, 140, 20),
    "yellow": (250, 222, 40),
    "green": (40, 160, 50),
    "mint": (140, 235, 190),
    "blue": (35, 70, 215),
    "cyan": (50, 195, 240),
    "purple": (130, 50, 180),
    "pink": (255, 140, 190),
    "brown": (125, 75, 35),
    "white": (250, 250, 250),
    "black": (30, 30, 34),
}
PATTERNS = ("plain", "trimmed", "striped", "spotted")
PROPORTIONS = ("slim", "regular", "broad")
MARKS = ("none", "star", "ring")
ACCESSORIES = ("none", "hat", "scarf", "balloon", "flag")
BACKGROUNDS = ("beach", "forest", "snow", "city", "space", "desert", "meadow")
STYLES = ("photo", "cartoon", "watercolor", "mosaic")
PLACES = ("left", "centre", "right")

NUM_BREEDS_PER_KIND = 20
NUM_HELD_OUT_PER_KIND = 3
_WORLD_SEED = 20261123


@dataclass(frozen=True, slots=True)
class Look:
    """The lasting appearance of one thing.

    `secondary` is the colour of trim or pattern; it equals `primary` if the thing is plain.
    """

    kind: str
    primary: str
    secondary: str
    pattern: str
    proportions: str = "regular"
    mark: str = "none"

    @property
    def description(self) -> tuple[str, str, str, str]:
        """Return the part of the look that words can tell; proportions and mark have no words."""
        return self.kind, self.primary, self.secondary, self.pattern


def random_look(rng: random.Random, kind: str | None = None, *, patterned: bool = False) -> Look:
    """Return any look, or with `patterned` one of two colours, as every breed and subject has."""
    primary, secondary = rng.sample(list(COLOURS), 2)
    pattern = rng.choice(PATTERNS[1:] if patterned else PATTERNS)
    return Look(
        kind=kind or rng.choice(KINDS),
        primary=primary,
        secondary=primary if pattern == "plain" else secondary,
        pattern=pattern,
        proportions=rng.choice(PROPORTIONS),
        mark=rng.choice(MARKS),
    )


@functools.cache
def breeds() -> dict[str, Look]:
    """Return word -> look; no two breeds or held-out looks share a description."""
    return _named_and_held_out()[0]


@functools.cache
def held_out_looks() -> tuple[Look, ...]:
    """Return the looks that training never shows, ordered so that kinds alternate.

    There are `NUM_HELD_OUT_PER_KIND` of each kind.
    """
    return _named_and_held_out()[1]


@functools.cache
def held_out_descriptions() -> frozenset[tuple[str, str, str, str]]:
    """Return the descriptions that may not appear in any training image or caption."""
    return frozenset(look.description for look in held_out_looks())


@functools.cache
def _named_and_held_out() -> tuple[dict[str, Look], tuple[Look, ...]]:
    rng = random.Random(_WORLD_SEED)
    taken: set[tuple[str, str, str, str]] = set()

    def fresh(kind: str) -> Look:
        while True:
            look = random_look(rng, kind, patterned=True)
            if look.description not in taken:
                taken.add(look.description)
                return look

    # The order of these draws is part of the shipped weights: another order would be another world,
    # with breeds and held-out looks that model and scorer do not know.
    named = {kind: [fresh(kind) for _ in range(NUM_BREEDS_PER_KIND)] for kind in KINDS}
    held_out = tuple(fresh(kind) for _ in range(NUM_HELD_OUT_PER_KIND) for kind in KINDS)
    words = iter(_breed_words(rng, NUM_BREEDS_PER_KIND * len(KINDS)))
    return {next(words): look for looks in named.values() for look in looks}, held_out


def _breed_words(rng: random.Random, count: int) -> list[str]:
    """Return pronounceable words of two or three syllables that no caption uses otherwise."""
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = (
            rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3)))
        )
        word = "".join(syllables) + rng.choice(("", "n", "x", "k"))
        if len(word) > 4:
            words[word] = None
    return list(words)


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


@functools.cache
def caption_words() -> frozenset[str]:
    """Return every word that a caption of the world may have: all that the miniature was taught."""
    phrases = (PLACE_PHRASES, STYLE_PHRASES, ACCESSORY_PHRASES, _PATTERN_PHRASES)
    told = " ".join(phrase.replace("{}", "") for each in phrases for phrase in each.values())
    joined = "a an and on the left right next to of style"
    return frozenset({*KINDS, *COLOURS, *breeds(), *told.split(), *joined.split()})


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
