"""The contact sheet: what the scores are about, to look at. Rows are rows, columns are prompts."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import TITLES, EvaluationImage, Row
from dti_engine.evaluation.store import Store
from dti_engine.miniature.world.subjects import HeldOutSubject, evaluation_prompts

_LABEL_PX = 150
_HEADER_PX = 84
_GAP_PX = 4
_CELL_PX = 112
_INK, _PAPER = (25, 28, 32), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Block:
    """One subject on a sheet: the photos, then rows by their titles, an image per column."""

    name: str
    photos: Sequence[Image.Image]
    rows: Mapping[str, Sequence[Image.Image]]


def contact_sheet(
    store: Store, rows: Sequence[Row], subjects: Sequence[HeldOutSubject]
) -> Image.Image:
    """A block for each subject: its photos, then its rows in every prompt, from the first seeds."""
    templates = [prompt.template for prompt in evaluation_prompts()]

    def cell(path: Path) -> Image.Image:
        # Every pixel enlarged alike: smoothing would show more than was generated.
        return cell_of(path, cell_px=_CELL_PX, resample=Image.Resampling.NEAREST)

    blocks = [
        Block(
            subject.name,
            [cell(path) for path in sorted(store.references(subject).glob("*.png"))],
            {
                TITLES[row.kind]: [
                    cell(store.image(EvaluationImage(row, subject, column, image_seed=0)))
                    for column in range(len(templates))
                ]
                for row in rows
            },
        )
        for subject in subjects
    ]
    return sheet_of(blocks, templates, cell_px=_CELL_PX)


def cell_of(path: Path, *, cell_px: int, resample: Image.Resampling) -> Image.Image:
    """A scored image, as large as a cell. Raises: ConfigurationError if it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB").resize((cell_px, cell_px), resample)
    except OSError as error:
        raise ConfigurationError(
            f"the image {str(path)!r} is scored, and cannot be read ({error}); put it back, or "
            "remove its line from scores.jsonl, and the same command generates it again"
        ) from error


def sheet_of(
    blocks: Sequence[Block],
    templates: Sequence[str],
    *,
    cell_px: int,
) -> Image.Image:
    """Blocks under each other, in columns of these prompts; all blocks have as many rows.

    Images are `cell_px` wide and high.
    """
    step = cell_px + _GAP_PX
    block_px = _HEADER_PX // 4 + (len(blocks[0].rows) + 1) * step
    size = (_LABEL_PX + len(templates) * step, _HEADER_PX + len(blocks) * block_px)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)

    def write(text: str, corner: tuple[int, int], width_px: int) -> None:
        font = ImageFont.load_default(11)
        wrapped = textwrap.fill(text, width=width_px // 6)
        pen.multiline_text(corner, wrapped, fill=_INK, font=font, spacing=2)

    def paste(images: Sequence[Image.Image], y: int) -> None:
        for column, image in enumerate(images):
            sheet.paste(image, (_LABEL_PX + column * step, y))

    for column, template in enumerate(templates):
        write(template.replace("{}", "*"), (_LABEL_PX + column * step, _GAP_PX), cell_px)
    for number, block in enumerate(blocks):
        top = _HEADER_PX + number * block_px
        write(f"{block.name}: photos", (_GAP_PX, top), _LABEL_PX)
        paste(block.photos, top)
        for index, (title, images) in enumerate(block.rows.items(), start=1):
            write(title, (_GAP_PX, top + index * step), _LABEL_PX)
            paste(images, top + index * step)
    return sheet
