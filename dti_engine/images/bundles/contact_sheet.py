"""A contact sheet of a bundle: what the model will see of it."""

import textwrap
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from dti_engine.images.bundles.bundle import Bundle
from dti_engine.images.crops import MAX_CROPS, Crop, make_crops

_CELL_PX = 208
_TEXT_PX = 64  # four lines
_GAP_PX = 10
_NUM_COLUMNS = 6
_DIMMED = 0.25  # how much is seen of what a mask leaves out
_INK, _PAPER, _GREY = (25, 28, 32), (255, 255, 255), (128, 128, 128)


def contact_sheet(
    bundle: Bundle, *, resolution: int, placeholder: str, templates: Sequence[str]
) -> Image.Image:
    """A cell for each crop at `resolution` px, image by image; name and caption below.

    What its mask leaves out is dimmed. An image without a caption of its own gets any of the
    templates in training; here, they take turns.

    Raises: ConfigurationError or InvalidImageError as `make_crops`.
    """
    cells = [
        (view, text.replace("{}", placeholder))
        for view, text in _cells(bundle, resolution, templates)
    ]
    columns = min(len(cells), _NUM_COLUMNS)
    rows = -(-len(cells) // columns)
    width_px, height_px = _CELL_PX + _GAP_PX, _CELL_PX + _TEXT_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width_px + _GAP_PX, rows * height_px + _GAP_PX), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (view, text) in enumerate(cells):
        row, column = divmod(number, columns)
        x, y = _GAP_PX + column * width_px, _GAP_PX + row * height_px
        sheet.paste(_shown(view), (x, y))
        lines = [textwrap.fill(line, width=_CELL_PX // 6) for line in text.splitlines()]
        pen.multiline_text((x, y + _CELL_PX), "\n".join(lines), fill=_INK, font=font, spacing=2)
    return sheet


def _cells(bundle: Bundle, resolution: int, templates: Sequence[str]) -> Iterator[tuple[Crop, str]]:
    """Crops, and what is written below each."""
    number = 0
    for subject_image in bundle.images:
        seen = make_crops(subject_image, resolution, max_crops=MAX_CROPS)
        for index, view in enumerate(seen, start=1):
            title = (
                subject_image.name
                if len(seen) == 1
                else f"{subject_image.name}, {index} of {len(seen)}"
            )
            if subject_image.caption is None:
                yield view, f"{title}\n{templates[number % len(templates)]}"
                number += 1
            else:
                yield view, f"{title}, own caption\n{subject_image.caption}"


def _shown(view: Crop) -> Image.Image:
    image = view.image
    if view.mask is not None:
        # Towards grey: darker or lighter would not be seen on all photos.
        dimmed = Image.blend(Image.new("RGB", image.size, _GREY), image, _DIMMED)
        image = Image.composite(image, dimmed, view.mask)
    # Small crops are enlarged pixel by pixel: smoothing would show more than there is.
    small = image.width < _CELL_PX
    filtering = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return image.resize((_CELL_PX, _CELL_PX), filtering)
