"""Tables and figures of the report, in markdown."""

from collections.abc import Iterable, Iterator, Sequence

from dti_engine.evaluation.statistics import Estimate


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """`0.71 [0.65, 0.76]`"""
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def length(norm: float | None, magnitude: float) -> str:
    """`0.412 (1.3 m*)`; nothing for what has no length."""
    return "" if norm is None else f"{norm:.3f} ({norm / magnitude:.1f} m*)"
