"""The part of the reports that both domains share: sections in markdown, and the contact sheet."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.results import EvaluationResults
from dti_engine.evaluation.rows import EvaluationImage, TableRow
from dti_engine.evaluation.statistics import FEW_SAMPLES, Estimate
from dti_engine.evaluation.store import EvaluationStore
from dti_engine.images.contact_sheet import labelled_grid

T = TypeVar("T")


def assemble(
    title: str, sections: Mapping[str, Iterable[str]], results: EvaluationResults, *, command: str
) -> str:
    """Return the report: its sections by their titles, the first without one, and the command."""
    lines = [f"# {title}"]
    for heading, section in sections.items():
        lines += ["", f"## {heading}", "", *section] if heading else ["", *section]
    lines += ["", "## How to repeat it", "", "```", command, "```", ""]
    lines += table(("on", ""), results.environment.items())
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """Return the estimate as `0.71 [0.65, 0.76]`."""
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def columns(items: Iterable[T], of_item: Mapping[str, Callable[[T], object]]) -> Iterator[str]:
    """Yield the lines of a table with one row per item; `of_item` maps a header to its cells."""
    yield from table(list(of_item), ([cell(item) for cell in of_item.values()] for item in items))


def differences(
    results: EvaluationResults, *, subject_title: str, prompt_title: str
) -> Iterator[str]:
    """Yield the table of DTI rows minus other rows."""
    yield from columns(
        results.differences,
        {
            "": lambda each: each.row,
            "minus": lambda each: each.other,
            subject_title: lambda each: interval(each.subject_score, signed=True),
            prompt_title: lambda each: interval(each.prompt_score, signed=True),
        },
    )


def interval_notes(num_subjects: int) -> Iterator[str]:
    """Yield what the brackets are, and a warning if there are few subjects."""
    yield "Brackets are 95 % intervals, by resampling subjects, paired."
    if num_subjects < FEW_SAMPLES:
        yield (
            f"With fewer than {FEW_SAMPLES} subjects they are too short: this run shows that "
            "everything works, and no more."
        )


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
