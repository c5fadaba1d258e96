"""The contact sheet: what the scores are about, to look at. Rows are rows, columns are prompts."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dti_engine.evaluation.rows import TITLES, Row, Shot
from dti_engine.evaluation.store import Store
from dti_engine.miniature.world.subjects import HeldOutSubject, evaluation_prompts

_CELL_PX = 112
_LABEL_PX = 150
_HEADER_PX = 84
_GAP_PX = 4
_INK, _PAPER = (25, 28, 32), (255, 255, 255)


def contact_sheet(
    store: Store, rows: Sequence[Row], subjects: Sequence[HeldOutSubject]
) -> Image.Image:
    """A block for each subject: its photos, then its rows in every prompt, from the first seeds."""
    templates = [prompt.template for prompt in evaluation_prompts()]
    step = _CELL_PX + _GAP_PX
    block = _HEADER_PX // 4 + (len(rows) + 1) * step
    size = (_LABEL_PX + len(templates) * step, _HEADER_PX + len(subjects) * block)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, template in enumerate(templates):
        _write(pen, template.replace("{}", "*"), (_LABEL_PX + column * step, _GAP_PX), _CELL_PX)
    for number, subject in enumerate(subjects):
        top = _HEADER_PX + number * block
        _write(pen, f"{subject.name}: photos", (_GAP_PX, top), _LABEL_PX)
        for column, path in enumerate(sorted(store.references(subject).glob("*.png"))):
            _paste(sheet, Image.open(path), (_LABEL_PX + column * step, top))
        for index, row in enumerate(rows, start=1):
            y = top + index * step
            _write(pen, TITLES[row.kind], (_GAP_PX, y), _LABEL_PX)
            for column in range(len(templates)):
                picture = Image.open(store.picture(Shot(row, subject, column, image_seed=0)))
                _paste(sheet, picture, (_LABEL_PX + column * step, y))
    return sheet


def _paste(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int]) -> None:
    """Every pixel enlarged alike: smoothing would show more than was painted."""
    sheet.paste(picture.resize((_CELL_PX, _CELL_PX), Image.Resampling.NEAREST), corner)


def _write(pen: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], width_px: int) -> None:
    font = ImageFont.load_default(11)
    wrapped = textwrap.fill(text, width=width_px // 6)
    pen.multiline_text(corner, wrapped, fill=_INK, font=font, spacing=2)
