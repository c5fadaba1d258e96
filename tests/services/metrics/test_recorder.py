"""Counting checks what it is given, and tells apart no more than it may."""

from collections.abc import Iterator

import pytest

from services import metrics
from services.metrics import FirstValues, KnownValues, Metric, Metrics, NoMetrics, PrometheusMetrics


class Kept(Metrics):
    """Keeps what it is given to export."""

    def __init__(self, *table: Metric) -> None:
        super().__init__(None, table or metrics.TABLE)
        self.kept: list[tuple[str, float, dict[str, str]]] = []

    def _keep(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        self.kept.append((metric.name, value, labels))

    _count = _observe = _set = _keep


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def _as_before() -> Iterator[None]:
    before = metrics.current()
    yield
    metrics.use(before)


def test_counts_times_and_gauges_are_exported(kept: Kept) -> None:
    kept.count("dti_subjects_total", outcome="failed")
    kept.count("dti_lease_losses_total", 2)
    kept.observe("dti_training_step_seconds", 0.25)
    kept.set("dti_workers", 3, state="running", pool="sdxl")
    assert kept.kept == [
        ("dti_subjects_total", 1, {"outcome": "failed"}),
        ("dti_lease_losses_total", 2, {}),
        ("dti_training_step_seconds", 0.25, {}),
        ("dti_workers", 3, {"pool": "sdxl", "state": "running"}),
    ]


@pytest.mark.parametrize("counting", [NoMetrics(), PrometheusMetrics(process="worker")])
def test_what_the_table_does_not_have_is_refused_by_name(counting: Metrics) -> None:
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


def test_a_process_counts_what_the_table_says_it_does() -> None:
    with pytest.raises(ValueError, match="of the process 'api'"):
        PrometheusMetrics(process="api").observe("dti_training_step_seconds", 1)


def test_values_that_are_not_known_are_counted_as_other(kept: Kept) -> None:
    kept.count("dti_http_requests_total", route="/v1/tokens", method="GET", status="2xx")
    kept.count("dti_http_requests_total", route="/v1/tokens", method="BREW", status="4xx")
    kept.count("dti_http_requests_total", route="/.env", method="GET", status="418")
    assert [labels for _, _, labels in kept.kept] == [
        {"route": "/v1/tokens", "method": "GET", "status": "2xx"},
        {"route": "other", "method": "other", "status": "4xx"},
        {"route": "other", "method": "other", "status": "other"},
    ]


def test_of_what_operators_name_the_first_are_told_apart() -> None:
    pool = FirstValues("pool", 2)
    kept = Kept(
        Metric("dti_a", "gauge", "A.", ("api",), (pool,)),
        Metric("dti_b_total", "counter", "B.", ("api",), (pool,)),
    )
    kept.set("dti_a", 1, pool="other")  # may be called so, and takes nobody's place
    kept.set("dti_a", 1, pool="one")
    kept.count("dti_b_total", pool="two")
    kept.set("dti_a", 1, pool="three")
    kept.count("dti_b_total", pool="one")
    assert [labels["pool"] for _, _, labels in kept.kept[1:]] == ["one", "two", "other", "one"]


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("sum", [5, 7, 3, 4]), ("max", [5, 5, 2, 2])]
)
def test_a_gauge_of_others_loses_none_of_them(aggregation: str, expected: list[float]) -> None:
    pool, state = FirstValues("pool", 1), KnownValues.of("state", "up")
    kept = Kept(Metric("dti_a", "gauge", "A.", ("api",), (pool, state), aggregation=aggregation))  # pyright: ignore[reportArgumentType]
    kept.set("dti_a", 100, pool="first", state="up")
    kept.set("dti_a", 5, pool="second", state="up")
    kept.set("dti_a", 2, pool="other", state="up")  # a pool may be called so
    kept.set("dti_a", 1, pool="second", state="up")
    kept.set("dti_a", 1, pool="third", state="up")
    assert [value for _, value, _ in kept.kept[1:]] == expected
    kept.set("dti_a", 9, pool="second", state="down")
    assert kept.kept[-1] == ("dti_a", 9, {"pool": "other", "state": "other"})


@pytest.mark.usefixtures("_as_before")
def test_a_process_counts_with_what_it_says() -> None:
    kept = Kept()
    before = metrics.use(kept)
    assert metrics.current() is kept
    assert metrics.use(before) is kept
    assert metrics.current() is before
