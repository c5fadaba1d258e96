"""A contact sheet of a bundle: every crop that training uses, with its caption."""

import textwrap
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from dti_engine.images.bundles.bundle import Bundle
from dti_engine.images.crops import MAX_CROPS, Crop, make_crops

_CELL_PX = 208
_TEXT_PX = 64  # four lines
_GAP_PX = 10
_NUM_COLUMNS = 6
_DIMMED = 0.25  # opacity outside the mask
_TEXT, _BACKGROUND, _GREY = (25, 28, 32), (255, 255, 255), (128, 128, 128)


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
    sheet = Image.new(
        "RGB", (columns * width_px + _GAP_PX, rows * height_px + _GAP_PX), _BACKGROUND
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (crop, text) in enumerate(cells):
        row, column = divmod(number, columns)
        x, y = _GAP_PX + column * width_px, _GAP_PX + row * height_px
        sheet.paste(_thumbnail(crop), (x, y))
        lines = [textwrap.fill(line, width=_CELL_PX // 6) for line in text.splitlines()]
        pen.multiline_text((x, y + _CELL_PX), "\n".join(lines), fill=_TEXT, font=font, spacing=2)
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
