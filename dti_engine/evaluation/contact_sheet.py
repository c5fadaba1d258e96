"""The contact sheet of an evaluation: some subjects, each row in some prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import EvaluationImage, TableRow
from dti_engine.evaluation.store import EvaluationStore
from dti_engine.images.grid import labelled_grid


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
    lines: list[tuple[str, Sequence[Image.Image]]] = []
    for subject, of_subject in photos.items():
        lines.append((f"{subject}: photos", of_subject[: len(prompts)]))
        for row in rows:
            images = [EvaluationImage(row, subject, prompt, image_seed=0) for prompt in prompts]
            lines.append((row.title, [_read(store.image(image)) for image in images]))
    titles = [template.replace("{}", "*") for template in prompts.values()]
    return labelled_grid(titles, lines, cell_px=cell_px, resample=resample)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ConfigurationError(
            f"the image {str(path)!r} is scored but cannot be read ({error}); restore it, or "
            "remove its line from scores.jsonl to generate it again"
        ) from error
