"""How good the miniature is, read by the scorer: the figures of the model card.

On held-out captions: the scorer on drawn pictures, on the same through the VAE, and on pictures that the whole model
paints from the caption. Nothing here has been seen in training: captions come from seeds that training does not reach.
"""

from collections import defaultdict
from collections.abc import Sequence

from PIL import Image

from dti_engine.miniature.dataset import VALIDATION_SEED
from dti_engine.miniature.drawing import draw
from dti_engine.miniature.scorer import Scorer, read
from dti_engine.miniature.world import Example, example

# Attributes of the model card -> the part of a question's name that asks for it.
ATTRIBUTES = {
    "object": "kind",
    "background": "background",
    "style": "style",
    "accessory": "accessory",
    "colour": "primary",
    "second colour": "secondary",
    "pattern": "pattern",
}


def held_out_examples(count: int) -> list[Example]:
    """Examples from seeds that training never draws."""
    return [example(VALIDATION_SEED + i) for i in range(count)]


def accuracy(
    scorer: Scorer, pictures: Sequence[Image.Image], examples: Sequence[Example]
) -> dict[str, float]:
    """Attribute -> share of what the captions ask for that the scorer sees in the pictures."""
    right: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)
    for reading, each in zip(read(scorer, pictures), examples, strict=True):
        for question, answer in each.asked.items():
            attribute = question.split(".")[-1]
            # "No accessory" is not an accessory obeyed: nearly any picture would get it right.
            if attribute == "accessory" and answer == "none":
                continue
            asked[attribute] += 1
            right[attribute] += reading.answer(question) == answer
    return {name: right[part] / asked[part] for name, part in ATTRIBUTES.items() if asked[part]}


def drawn(examples: Sequence[Example]) -> list[Image.Image]:
    """The world's own pictures of the examples."""
    return [draw(each.scene) for each in examples]
