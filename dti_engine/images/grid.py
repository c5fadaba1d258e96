"""A grid of images with a title above each column and a label before each row."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

_INK, _PAPER = (25, 28, 32), (255, 255, 255)
_FONT_PX, _LINE_PX, _CHARACTER_PX = 11, 14, 6  # of the default font, on average
_MARGIN_PX = 4


def labelled_grid(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    cell_px: int,
    label_px: int = 150,
    gap_px: int = 4,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Return the grid; a row may have fewer images than there are columns.

    Images are cropped to squares of `cell_px`. Labels and titles are wrapped.
    """
    step = cell_px + gap_px
    titles = [textwrap.wrap(title, width=cell_px // _CHARACTER_PX) for title in columns]
    header_px = max(map(len, titles)) * _LINE_PX + 2 * _MARGIN_PX
    size = label_px + len(columns) * step - gap_px, header_px + len(rows) * step - gap_px
    grid = Image.new("RGB", size, _PAPER)
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(_FONT_PX)

    def write(lines: Sequence[str], corner: tuple[int, int]) -> None:
        pen.multiline_text(corner, "\n".join(lines), fill=_INK, font=font, spacing=2)

    for column, title in enumerate(titles):
        write(title, (label_px + column * step, _MARGIN_PX))
    for number, (label, images) in enumerate(rows):
        top = header_px + number * step
        write(textwrap.wrap(label, width=label_px // _CHARACTER_PX), (_MARGIN_PX, top))
        for column, image in enumerate(images):
            cell = ImageOps.fit(image.convert("RGB"), (cell_px, cell_px), method=resample)
            grid.paste(cell, (label_px + column * step, top))
    return grid
