"""The vocabulary of the world: kinds, colours, patterns, looks, and the words that name them.

A `Look` is everything about a thing that is the same in all images. A *breed* is one particular
look with a word of its own, so that the vocabulary shows by example that a single token can hold a
look. The *held-out* looks have no word and never appear in training, not even by chance: they are
the subjects of demo and evaluation.
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
