"""What the reports of both domains share, in markdown."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from dti_engine.evaluation.results import EvaluationResults
from dti_engine.evaluation.statistics import FEW_SAMPLES, Estimate

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
