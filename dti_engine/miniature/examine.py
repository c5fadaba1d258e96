"""The examination of a miniature: does it generate what captions ask for?

Captions come from seeds outside of training. For each, the scorer reads three images: the world's
own drawing, that drawing through the VAE, and the image that the model generates from the caption.
The first two tell how reliable the scorer is. Readings are graded by attribute and by group of
captions.
"""

import argparse
import json
import logging
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from dti_engine.files import atomic_write
from dti_engine.miniature.model_card import RESULTS, write_card
from dti_engine.miniature.pipeline import generate, open_pipeline, reconstruct
from dti_engine.miniature.progress import Display
from dti_engine.miniature.scorer import ScoredImage, load_scorer, read
from dti_engine.miniature.world.drawing import draw, png_bytes
from dti_engine.miniature.world.scenes import VALIDATION_SEED, Example, example
from dti_engine.miniature.world.vocabulary import breeds

# The last part of a question's name -> the attribute of the question.
_ATTRIBUTES = {
    "kind": "object",
    "background": "background",
    "style": "style",
    "accessory": "accessory",
    "primary": "colour",
    "secondary": "second colour",
    "pattern": "pattern",
}
# The smallest share of an attribute that generated images should show, and the smallest mean share,
# over the attributes with a bar, that the scorer should find in drawings and reconstructions.
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
    """The number of times an attribute was requested, and the number of times it was found."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked


def tally(read: Iterable[tuple[ScoredImage, Example]]) -> dict[str, Tally]:
    """Return attribute -> tally over images, without attributes that no caption asks for."""
    right, asked = Counter[str](), Counter[str]()
    for reading, each in read:
        for question, answer in each.asked.items():
            attribute = _ATTRIBUTES[question.split(".")[-1]]
            # A caption without an accessory does not count: nearly any image would be right.
            if (attribute, answer) == ("accessory", "none"):
                continue
            asked[attribute] += 1
            right[attribute] += reading.answer(question) == answer
    return {name: Tally(right[name], asked[name]) for name in _ATTRIBUTES.values() if asked[name]}


COUNT = 400  # captions, so that a share of all of them is accurate to about 0.02


@dataclass(frozen=True, eq=False)
class Examination:
    """The images of every example, and the scorer's readings of them.

    Keys are the sources of an image: drawn, reconstructed or generated.
    """

    examples: Sequence[Example]
    images: dict[str, list[Image.Image]]
    readings: dict[str, list[ScoredImage]]
    steps: int
    guidance: float

    def tallies(self, source: str, group: str = "all") -> dict[str, Tally]:
        """Return attribute -> tally over the examples of one of GROUPS."""
        read_pairs = zip(self.readings[source], self.examples, strict=True)
        return tally(pair for pair in read_pairs if GROUPS[group](pair[1]))

    def document(self) -> dict[str, Any]:
        """Return all scores as a JSON document."""
        generated = self.tallies("generated")
        graded = [name for name in BARS if name in generated]
        scorer = {
            source: fmean(self.tallies(source)[name].share for name in graded)
            for source in SCORER_BARS
        }
        return {
            "captions": len(self.examples),
            "steps": self.steps,
            "guidance": self.guidance,
            "generated": {name: _verdict(generated[name].share, BARS[name]) for name in graded},
            "scorer": {
                source: _verdict(scorer[source], bar) for source, bar in SCORER_BARS.items()
            },
            "groups": {group: self._group(group) for group in GROUPS},
        }

    def _group(self, group: str) -> dict[str, Any]:
        document: dict[str, Any] = {"captions": sum(map(GROUPS[group], self.examples))}
        for source in self.readings:
            document[source] = {
                name: {"share": round(each.share, 4), "right": each.right, "asked": each.asked}
                for name, each in self.tallies(source, group).items()
            }
        return document


def _verdict(share: float, bar: float) -> dict[str, Any]:
    return {"share": round(share, 4), "bar": bar, "met": share >= bar}


def held_out_examples(count: int) -> list[Example]:
    """Return examples from seeds that training never draws."""
    return [example(VALIDATION_SEED + i) for i in range(count)]


def examine(
    weights: Path,
    *,
    count: int = COUNT,
    steps: int = 25,
    guidance: float = 4.0,
    batch_size: int = 16,
    device: torch.device,
    on_images: Callable[[int], None] = lambda done: None,
) -> Examination:
    """Generate and score `count` captions; on_images gets the number of images generated so far."""
    pipeline = open_pipeline(weights, device)
    examples = held_out_examples(count)
    drawn = [draw(each.scene) for each in examples]
    generated = generate(
        pipeline,
        [each.caption for each in examples],
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
        on_images=on_images,
    )
    images = {
        "drawn": drawn,
        "reconstructed": reconstruct(pipeline.vae, drawn, batch_size=batch_size),
        "generated": generated,
    }
    scorer = load_scorer(weights / "scorer.safetensors")
    readings = {source: read(scorer, each) for source, each in images.items()}
    return Examination(examples, images, readings, steps, guidance)


def publish(examination: Examination, weights: Path, *, sheet: Path | None = None) -> None:
    """Write the scores beside the weights and onto their card; sheet: a PNG of the first images."""
    document = json.dumps(examination.document(), indent=2)
    atomic_write(weights / RESULTS, f"{document}\n".encode())
    write_card(weights)
    if sheet:
        readings = examination.readings["generated"]
        drawn = contact_sheet(examination.examples, examination.images, readings)
        atomic_write(sheet, png_bytes(drawn))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"Scores go to {RESULTS} and to the model card, README.md, beside the weights.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", metavar="DIR", type=Path, required=True, help="the recipe's result"
    )
    parser.add_argument(
        "--count", metavar="N", type=int, default=COUNT, help="captions (default: %(default)s)"
    )
    parser.add_argument(
        "--guidance", metavar="X", type=float, default=4.0, help="1 is none (default: %(default)s)"
    )
    parser.add_argument(
        "--sheet", metavar="FILE", type=Path, help="PNG of the first captions and their images"
    )
    options = parser.parse_args()
    if not (options.weights / "model_index.json").is_file():
        parser.error(f"{options.weights} holds no model; make one with the recipe")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Display(Console(stderr=True)) as display:
        found = examine(
            options.weights,
            count=options.count,
            guidance=options.guidance,
            device=device,
            on_images=lambda done: display.report("generation", done, options.count, {}),
        )
    publish(found, options.weights, sheet=options.sheet)
    print((options.weights / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()


_SIDE = 128  # of an image, in pixels
_GAP = 6
_TEXT = 330
_LINE = 40  # characters that fit into _TEXT
_INK, _RED, _PAPER = (20, 20, 24), (200, 20, 40), (255, 255, 255)


def contact_sheet(
    examples: Sequence[Example],
    images: Mapping[str, Sequence[Image.Image]],
    readings: Sequence[ScoredImage],
    *,
    count: int = 24,
) -> Image.Image:
    """Return a sheet with one row for each of the first `count` examples.

    A row has the example's images and its caption, with the attributes in red that the scorer does
    not find in the last image.
    """
    rows = min(count, len(examples))
    height, image_width = _SIDE + _GAP, len(images) * (_SIDE + _GAP)
    sheet = Image.new("RGB", (image_width + _TEXT, rows * height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row in range(rows):
        for column, of_source in enumerate(images.values()):
            enlarged = of_source[row].resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (column * height, row * height))
        corner = (image_width, row * height)
        caption = textwrap.fill(examples[row].caption, _LINE)
        pen.multiline_text(corner, caption, fill=_INK, font=font)
        _, _, _, bottom = pen.multiline_textbbox(corner, caption, font=font)
        missed = "\n".join(_missed(examples[row], readings[row]))
        pen.multiline_text((image_width, bottom + _GAP), missed, fill=_RED, font=font)
    return sheet


def _missed(example: Example, reading: ScoredImage) -> list[str]:
    return [
        f"{question}: {answer}, reads {reading.answer(question)}"
        for question, answer in example.asked.items()
        if reading.answer(question) != answer
    ]
