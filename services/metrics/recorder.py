"""Recording of metrics, checked against the table, whatever exports them."""

import threading
from collections.abc import Iterable, Mapping

from services.metrics.table import OTHER, TABLE, FirstValues, KnownValues, Metric, Process


class Metrics:
    """Records metrics of the table, and refuses any other. Thread-safe.

    An exporter overrides `_count`, `_observe` and `_set`, whose labels are always known ones.
    """

    def __init__(self, process: Process | None, table: Iterable[Metric] = TABLE) -> None:
        """process: which metrics may be counted; None: all of them."""
        self.process = process
        self.table = {
            metric.name: metric
            for metric in table
            if process is None or process in metric.processes
        }
        self._lock = threading.Lock()
        self._first: dict[str, set[str]] = {}
        """The values with series of their own, of each label whose values operators choose."""
        self._others: dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], float]] = {}
        """The last values of gauges, for those label values that are `OTHER` together."""

    def count(self, name: str, n: float = 1, **labels: str) -> None:
        """Add `n` to a counter. Raises: ValueError if the table has no such metric or labels."""
        metric = self._metric(name, "counter", labels)
        if n < 0:
            raise ValueError(f"{name} counts up only, not by {n!r}: use a gauge")
        self._count(metric, n, self._known(metric, labels))

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram. Raises: as `count`."""
        metric = self._metric(name, "histogram", labels)
        self._observe(metric, value, self._known(metric, labels))

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge. Raises: as `count`."""
        metric = self._metric(name, "gauge", labels)
        known = self._known(metric, labels)
        with self._lock:
            # Several values share this series, and the latest one alone must not stand for all.
            if OTHER in known.values():
                values = self._others.setdefault((name, tuple(known.values())), {})
                values[tuple(labels[label] for label in metric.labels)] = value
                value = (
                    sum(values.values()) if metric.aggregation == "sum" else max(values.values())
                )
            self._set(metric, value, known)

    def _count(self, metric: Metric, n: float, labels: dict[str, str]) -> None: ...

    def _observe(self, metric: Metric, value: float, labels: dict[str, str]) -> None: ...

    def _set(self, metric: Metric, value: float, labels: dict[str, str]) -> None: ...

    def _metric(self, name: str, kind: str, labels: Mapping[str, str]) -> Metric:
        metric = self.table.get(name)
        if metric is None:
            owner = f" of the process {self.process!r}" if self.process else ""
            raise ValueError(
                f"no metric{owner} is called {name!r}: there are "
                f"{', '.join(self.table)}; see services/metrics/table.py"
            )
        if metric.kind != kind:
            raise ValueError(f"{name} is a {metric.kind}, not a {kind}")
        if set(labels) != set(metric.labels):
            given, expected = ", ".join(labels) or "none", ", ".join(metric.labels) or "none"
            raise ValueError(f"{name} has the labels {expected}, not {given}")
        return metric

    def _known(self, metric: Metric, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels in the table's order, with `OTHER` for unknown values."""
        known: dict[str, str] = {}
        for group in metric.label_groups:
            values = tuple(labels[label] for label in group.labels)
            if not self._is_known(group, values):
                values = (OTHER,) * len(values)
            known.update(zip(group.labels, values, strict=True))
        return known

    def _is_known(self, group: KnownValues | FirstValues, values: tuple[str, ...]) -> bool:
        if isinstance(group, KnownValues):
            return values in group.values
        with self._lock:
            first = self._first.setdefault(group.label, set())
            if len(first) < group.max_values and values[0] != OTHER:
                first.add(values[0])
            return values[0] in first


class NoMetrics(Metrics):
    """Metrics that are checked and not exported."""

    def __init__(self) -> None:
        super().__init__(None)


_current: Metrics = NoMetrics()


def current() -> Metrics:
    """Return the metrics of this process; before `use`, they are not exported."""
    return _current


def use(metrics: Metrics) -> Metrics:
    """Count with these metrics from now on; return those before."""
    global _current
    before, _current = _current, metrics
    return before
