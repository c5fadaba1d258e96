"""Contact sheets: a labelled grid of images, and every crop of a bundle with its caption."""

import textwrap
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dti_engine.images.bundles.bundle import Bundle
from dti_engine.images.crops import MAX_CROPS, Crop, make_crops

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


_CELL_PX = 208
_TEXT_PX = 64  # four lines
_GAP_PX = 10
_NUM_COLUMNS = 6
_DIMMED = 0.25  # opacity outside the mask
_GREY = (128, 128, 128)


def contact_sheet(
    bundle: Bundle, *, resolution: int, placeholder: str, templates: Sequence[str]
) -> Image.Image:
    """Draw a cell for each crop at `resolution` px, image by image, with name and caption below.

    The area outside the mask is dimmed. Training draws a random template for an image without a
    caption of its own; here the templates take turns.

    Raises: ConfigurationError or InvalidImageError as `make_crops`.
    """
    cells = [
        (crop, text.replace("{}", placeholder))
        for crop, text in _cells(bundle, resolution, templates)
    ]
    columns = min(len(cells), _NUM_COLUMNS)
    rows = -(-len(cells) // columns)
    width_px, height_px = _CELL_PX + _GAP_PX, _CELL_PX + _TEXT_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width_px + _GAP_PX, rows * height_px + _GAP_PX), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (crop, text) in enumerate(cells):
        row, column = divmod(number, columns)
        x, y = _GAP_PX + column * width_px, _GAP_PX + row * height_px
        sheet.paste(_thumbnail(crop), (x, y))
        lines = [textwrap.fill(line, width=_CELL_PX // 6) for line in text.splitlines()]
        pen.multiline_text((x, y + _CELL_PX), "\n".join(lines), fill=_INK, font=font, spacing=2)
    return sheet


def _cells(bundle: Bundle, resolution: int, templates: Sequence[str]) -> Iterator[tuple[Crop, str]]:
    """Yield the crops, each with the text below it."""
    number = 0
    for subject_image in bundle.images:
        image_crops = make_crops(subject_image, resolution, max_crops=MAX_CROPS)
        for index, crop in enumerate(image_crops, start=1):
            title = (
                subject_image.name
                if len(image_crops) == 1
                else f"{subject_image.name}, {index} of {len(image_crops)}"
            )
            if subject_image.caption is None:
                yield crop, f"{title}\n{templates[number % len(templates)]}"
                number += 1
            else:
                yield crop, f"{title}, own caption\n{subject_image.caption}"


def _thumbnail(crop: Crop) -> Image.Image:
    image = crop.image
    if crop.mask is not None:
        # Towards grey, as darkening is invisible on dark photos and lightening on bright ones.
        dimmed = Image.blend(Image.new("RGB", image.size, _GREY), image, _DIMMED)
        image = Image.composite(image, dimmed, crop.mask)
    # Small crops are enlarged pixel by pixel: smoothing would show more than there is.
    small = image.width < _CELL_PX
    filtering = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return image.resize((_CELL_PX, _CELL_PX), filtering)
