"""How readings of pictures are graded: against what captions ask for, by attribute and by group."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dti_engine.miniature.scorer import Reading
from dti_engine.miniature.world.looks import breeds
from dti_engine.miniature.world.scenes import Example

# The last part of a question's name -> the attribute that it asks for.
_ATTRIBUTES = {
    "kind": "object",
    "background": "background",
    "style": "style",
    "accessory": "accessory",
    "primary": "colour",
    "secondary": "second colour",
    "pattern": "pattern",
}
# The least share of what captions ask for that paintings should show; and that the scorer should
# see in drawings and in reconstructions, as a mean over the attributes that have a bar.
BARS = {"object": 0.90, "background": 0.90, "style": 0.90, "accessory": 0.80, "colour": 0.85}
SCORER_BARS = {"drawn": 0.97, "reconstructed": 0.95}


def _names_breed(each: Example) -> bool:
    return not breeds().keys().isdisjoint(each.caption.replace(",", "").split())


GROUPS: dict[str, Callable[[Example], bool]] = {
    "all": lambda each: True,
    "one figure": lambda each: len(each.scene.figures) == 1,
    "two figures": lambda each: len(each.scene.figures) == 2,
    "with breeds": _names_breed,
    "without breeds": lambda each: not _names_breed(each),
}


@dataclass(frozen=True, slots=True)
class Tally:
    """How often an attribute was asked for, and how often it was there."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked


def tally(read: Iterable[tuple[Reading, Example]]) -> dict[str, Tally]:
    """Attribute -> its tally over pictures; attributes that no caption asks for are left out."""
    right, asked = Counter[str](), Counter[str]()
    for reading, each in read:
        for question, answer in each.asked.items():
            attribute = _ATTRIBUTES[question.split(".")[-1]]
            # "No accessory" is no accessory obeyed: nearly any picture would get it right.
            if (attribute, answer) == ("accessory", "none"):
                continue
            asked[attribute] += 1
            right[attribute] += reading.answer(question) == answer
    return {name: Tally(right[name], asked[name]) for name in _ATTRIBUTES.values() if asked[name]}
