"""What a row of the table of metrics is, and how many series can come of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

Process = Literal["api", "supervisor", "worker", "engine", "dispatcher"]
"""What counts a metric. Each process of the service is one of these."""

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "seconds", "bytes"]

OTHER = "other"
"""What stands in the place of a label's value that is not among the known ones."""


@dataclass(frozen=True, slots=True)
class Known:
    """Labels whose values are few and known; two that belong together are known as pairs."""

    labels: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, label: str, *values: str) -> "Known":
        """One label."""
        return cls((label,), tuple((value,) for value in values))


@dataclass(frozen=True, slots=True)
class First:
    """A label whose values an operator chooses: so many are kept in a process, the first ones."""

    label: str
    most: int

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: all that those who count, export and read it have to know."""

    name: str
    kind: Kind
    help: str
    """What it counts, in one sentence."""
    by: tuple[Process, ...]
    labelled: tuple[Known | First, ...] = ()
    buckets: tuple[float, ...] = ()
    folds: Literal["sum", "max"] = "sum"
    """What a gauge shows where values of a label are told apart no more."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels."""
        return tuple(self._names())

    @property
    def unit(self) -> Unit:
        """As the name says."""
        base = self.name.removesuffix("_total")
        if base.endswith("_seconds"):
            return "seconds"
        return "bytes" if base.endswith("_bytes") else ""

    @property
    def most_series(self) -> int:
        """How many series there are in one process at the worst."""
        # Of a histogram: buckets, the one without a bound, sum and count.
        each = len(self.buckets) + 3 if self.kind == "histogram" else 1
        return each * prod(_most_values(labels) + 1 for labels in self.labelled)

    def _names(self) -> Iterator[str]:
        for labels in self.labelled:
            yield from labels.labels


def _most_values(labels: Known | First) -> int:
    return labels.most if isinstance(labels, First) else len(labels.values)
