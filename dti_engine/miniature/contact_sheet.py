"""A contact sheet: drawings beside generated images, with the errors of each."""

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from dti_engine.miniature.scorer import ScoredImage
from dti_engine.miniature.world.scenes import Example

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
        for column, made in enumerate(images.values()):
            enlarged = made[row].resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
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
