"""The contact sheet of an evaluation: some subjects, each row in some prompts."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import EvaluationImage, TableRow
from dti_engine.evaluation.store import EvaluationStore

_LABEL_PX = 150
_HEADER_PX = 84
_GAP_PX = 4
_INK, _PAPER = (25, 28, 32), (255, 255, 255)


def contact_sheet(
    store: EvaluationStore,
    rows: Sequence[TableRow],
    photos: Mapping[str, Sequence[Image.Image]],
    prompts: Mapping[int, str],
    *,
    cell_px: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Return a sheet with one block per subject: its photos, then every row in these prompts.

    `photos` maps each subject to its photos, `prompts` the index of each prompt to its template.
    Images are from the first seeds, `cell_px` wide and high.

    Raises:
        ConfigurationError: A scored image cannot be read.
    """

    def fit(image: Image.Image) -> Image.Image:
        return ImageOps.fit(image.convert("RGB"), (cell_px, cell_px), method=resample)

    step = cell_px + _GAP_PX
    block_px = _HEADER_PX // 4 + (len(rows) + 1) * step
    size = (_LABEL_PX + len(prompts) * step, _HEADER_PX + len(photos) * block_px)
    sheet = Image.new("RGB", size, _PAPER)
    write = _writer(sheet)
    for column, template in enumerate(prompts.values()):
        write(template.replace("{}", "*"), (_LABEL_PX + column * step, _GAP_PX), cell_px)
    for number, (subject, of_subject) in enumerate(photos.items()):
        top = _HEADER_PX + number * block_px
        lines = {f"{subject}: photos": list(of_subject)[: len(prompts)]} | {
            row.title: [
                _read(store.image(EvaluationImage(row, subject, prompt, image_seed=0)))
                for prompt in prompts
            ]
            for row in rows
        }
        for index, (title, images) in enumerate(lines.items()):
            write(title, (_GAP_PX, top + index * step), _LABEL_PX)
            for column, image in enumerate(images):
                sheet.paste(fit(image), (_LABEL_PX + column * step, top + index * step))
    return sheet


def _writer(sheet: Image.Image) -> Callable[[str, tuple[int, int], int], None]:
    pen = ImageDraw.Draw(sheet)

    def write(text: str, corner: tuple[int, int], width_px: int) -> None:
        font = ImageFont.load_default(11)
        wrapped = textwrap.fill(text, width=width_px // 6)
        pen.multiline_text(corner, wrapped, fill=_INK, font=font, spacing=2)

    return write


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ConfigurationError(
            f"the image {str(path)!r} is scored but cannot be read ({error}); restore it, or "
            "remove its line from scores.jsonl to generate it again"
        ) from error
