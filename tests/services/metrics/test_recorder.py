"""Counting checks what it is given, and tells apart no more than it may."""

from collections.abc import Iterator

import pytest

from services import metrics
from services.metrics import FirstValues, KnownValues, Metric, Metrics, NoMetrics, PrometheusMetrics


class RecordingExporter(Metrics):
    """Keeps what it is given to export."""

    def __init__(self, *table: Metric) -> None:
        super().__init__(None, table or metrics.TABLE)
        self.records: list[tuple[str, float, dict[str, str]]] = []

    def _keep(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        self.records.append((metric.name, value, labels))

    _count = _observe = _set = _keep


@pytest.fixture
def exporter() -> RecordingExporter:
    return RecordingExporter()


@pytest.fixture
def _as_before() -> Iterator[None]:
    before = metrics.current()
    yield
    metrics.use(before)


def test_counts_times_and_gauges_are_exported(exporter: RecordingExporter) -> None:
    exporter.count("dti_subjects_total", outcome="failed")
    exporter.count("dti_lease_losses_total", 2)
    exporter.observe("dti_training_step_seconds", 0.25)
    exporter.set("dti_workers", 3, state="running", pool="sdxl")
    assert exporter.records == [
        ("dti_subjects_total", 1, {"outcome": "failed"}),
        ("dti_lease_losses_total", 2, {}),
        ("dti_training_step_seconds", 0.25, {}),
        ("dti_workers", 3, {"pool": "sdxl", "state": "running"}),
    ]


@pytest.mark.parametrize("counting", [NoMetrics(), PrometheusMetrics(process="worker")])
def test_an_unknown_metric_is_refused_by_name(counting: Metrics) -> None:
    with pytest.raises(
        ValueError,
        match=r"'dti_training_step_second': there are .*dti_training_step_seconds.*table",
    ):
        counting.observe("dti_training_step_second", 1)
    with pytest.raises(ValueError, match="is a histogram, not a counter"):
        counting.count("dti_training_step_seconds")
    with pytest.raises(ValueError, match="has the labels outcome, not none"):
        counting.count("dti_subjects_total")
    with pytest.raises(ValueError, match="has the labels none, not tenant"):
        counting.count("dti_lease_losses_total", tenant="a")
    with pytest.raises(ValueError, match="counts up only"):
        counting.count("dti_lease_losses_total", -1)


def test_a_process_exports_the_metrics_that_the_table_lists() -> None:
    with pytest.raises(ValueError, match="of the process 'api'"):
        PrometheusMetrics(process="api").observe("dti_training_step_seconds", 1)


def test_values_that_are_not_known_are_counted_as_other(exporter: RecordingExporter) -> None:
    exporter.count("dti_http_requests_total", route="/v1/tokens", method="GET", status="2xx")
    exporter.count("dti_http_requests_total", route="/v1/tokens", method="BREW", status="4xx")
    exporter.count("dti_http_requests_total", route="/.env", method="GET", status="418")
    assert [labels for _, _, labels in exporter.records] == [
        {"route": "/v1/tokens", "method": "GET", "status": "2xx"},
        {"route": "other", "method": "other", "status": "4xx"},
        {"route": "other", "method": "other", "status": "other"},
    ]


def test_only_the_first_names_of_operators_get_their_own_label() -> None:
    pool = FirstValues("pool", 2)
    exporter = RecordingExporter(
        Metric("dti_a", "gauge", "A.", ("api",), (pool,)),
        Metric("dti_b_total", "counter", "B.", ("api",), (pool,)),
    )
    exporter.set("dti_a", 1, pool="other")  # may be called so, and takes nobody's place
    exporter.set("dti_a", 1, pool="one")
    exporter.count("dti_b_total", pool="two")
    exporter.set("dti_a", 1, pool="three")
    exporter.count("dti_b_total", pool="one")
    assert [labels["pool"] for _, _, labels in exporter.records[1:]] == [
        "one",
        "two",
        "other",
        "one",
    ]


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("sum", [5, 7, 3, 4]), ("max", [5, 5, 2, 2])]
)
def test_a_gauge_of_others_loses_none_of_them(aggregation: str, expected: list[float]) -> None:
    pool, state = FirstValues("pool", 1), KnownValues.of("state", "up")
    exporter = RecordingExporter(
        Metric("dti_a", "gauge", "A.", ("api",), (pool, state), aggregation=aggregation)
    )  # pyright: ignore[reportArgumentType]
    exporter.set("dti_a", 100, pool="first", state="up")
    exporter.set("dti_a", 5, pool="second", state="up")
    exporter.set("dti_a", 2, pool="other", state="up")  # a pool may be called so
    exporter.set("dti_a", 1, pool="second", state="up")
    exporter.set("dti_a", 1, pool="third", state="up")
    assert [value for _, value, _ in exporter.records[1:]] == expected
    exporter.set("dti_a", 9, pool="second", state="down")
    assert exporter.records[-1] == ("dti_a", 9, {"pool": "other", "state": "other"})


@pytest.mark.usefixtures("_as_before")
def test_a_process_uses_the_exporter_that_it_configures() -> None:
    exporter = RecordingExporter()
    before = metrics.use(exporter)
    assert metrics.current() is exporter
    assert metrics.use(before) is exporter
    assert metrics.current() is before
