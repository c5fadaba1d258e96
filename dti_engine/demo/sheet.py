"""One picture of the whole demo: a row for each subject, two photos and then its paintings."""

from pathlib import Path

from PIL import Image

from dti_engine.demo.results import Results

_SIDE, _GAP, _WIDE_GAP = 96, 6, 20  # pixels


def sheet(results: Results, output: Path) -> Image.Image:
    """The first and the last photo of each subject, and all that was painted of it."""
    rows = [
        [*each.references[:: len(each.references) - 1], *(one.file for one in each.paintings)]
        for each in results.subjects
    ]
    step = _SIDE + _GAP
    lefts = [column * step + (_WIDE_GAP - _GAP) * (column > 1) for column in range(len(rows[0]))]
    size = lefts[-1] + _SIDE, len(rows) * step - _GAP
    shown = Image.new("RGB", size, "white")
    for number, row in enumerate(rows):
        for left, file in zip(lefts, row, strict=True):
            with Image.open(output / file) as picture:
                tile = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            shown.paste(tile, (left, number * step))
    return shown
