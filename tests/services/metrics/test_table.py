"""The table keeps its rules, and says of ledger and stores what they say of themselves."""

import inspect
import re
from typing import get_args

import pytest

from services import metrics
from services.contracts.jobs import ItemState
from services.ledger.attempts import StopReason
from services.ledger.records import EndedRecord, ResultRecord
from services.metrics import MAX_SERIES, TABLE, FirstValues, KnownValues, Metric, Process
from services.storage.interface import Store

_TELLTALE = {"tenant", "job", "item", "token", "key", "subject", "worker", "request", "user", "id"}


@pytest.fixture(params=TABLE, ids=lambda metric: metric.name)
def metric(request: pytest.FixtureRequest) -> Metric:
    return request.param


def _values(name: str, label: str) -> set[str]:
    (metric,) = [one for one in TABLE if one.name == name]
    (known,) = [
        one for one in metric.label_groups if isinstance(one, KnownValues) and label in one.labels
    ]
    return {values[known.labels.index(label)] for values in known.values}


def test_each_name_stands_for_one_metric() -> None:
    names = [metric.name for metric in TABLE]
    assert len(names) == len(set(names)) > 20


def test_names_tell_kind_and_base_unit(metric: Metric) -> None:
    assert re.fullmatch(r"dti_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(
        r"_(milli|micro|ms|minutes|hours|mb|kb|count|sum|bucket)(_|$)", metric.name
    )
    if metric.kind == "histogram":
        assert metric.unit in ("seconds", "bytes")


def test_buckets_ascend_and_are_of_histograms_alone(metric: Metric) -> None:
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert all(bound > 0 for bound in metric.buckets)  # Ray takes no others


def test_each_metric_has_a_sentence_and_its_processes(metric: Metric) -> None:
    assert re.fullmatch(r"[A-Z][^.]+\.", metric.help)
    assert metric.processes
    assert set(metric.processes) <= set(get_args(Process))


def test_labels_have_few_values_and_no_personal_data(metric: Metric) -> None:
    assert len(set(metric.labels)) == len(metric.labels) <= 3
    assert not set(metric.labels) & _TELLTALE
    for labels in metric.label_groups:
        if isinstance(labels, KnownValues):
            assert len(set(labels.values)) == len(labels.values)
            assert all(len(values) == len(labels.labels) for values in labels.values)
            assert metrics.OTHER not in {value for values in labels.values for value in values}
        else:
            assert labels.max_values < 10


@pytest.mark.parametrize("process", get_args(Process))
def test_no_process_exports_too_many_series(process: Process) -> None:
    counted = {metric.name: metric.max_series for metric in TABLE if process in metric.processes}
    assert sum(counted.values()) <= MAX_SERIES, counted


def test_series_are_counted_with_buckets_and_unknown_values() -> None:
    known = KnownValues(("a", "b"), (("1", "2"), ("3", "4")))
    gauge = Metric("dti_x", "gauge", "X.", ("api",), (known, FirstValues("c", 4)))
    assert gauge.max_series == 3 * 5
    histogram = Metric("dti_x", "histogram", "X.", ("api",), (known,), buckets=(1, 2))
    # le="1", le="2", le="+Inf", sum and count
    assert histogram.max_series == 3 * 5


def test_states_and_ends_are_those_of_items() -> None:
    assert _values("dti_items", "state") == {state.value for state in ItemState}
    ends = {state.value for state in ItemState if state.ended}
    assert _values("dti_subjects_total", "outcome") == ends


def test_every_outcome_of_an_attempt_has_its_own_label() -> None:
    causes = _values("dti_attempts_total", "cause")
    for record, field in ((EndedRecord, "cause"), (ResultRecord, "status")):
        assert set(get_args(record.model_fields[field].annotation)) <= causes
    # What is lost to others ends as lost in the ledger, too.
    assert set(get_args(StopReason)) <= causes


def test_operations_are_those_of_stores() -> None:
    expected = {
        name
        for name, _ in inspect.getmembers(Store, inspect.isfunction)
        if not name.startswith(("_", "presigned_", "for_"))
    }
    # The clock and what a store retains are asked for at the start alone.
    rare = {"now", "retention"}
    counted_as_delete = {"purge_versions"}
    expected -= rare | counted_as_delete
    assert _values("dti_store_request_seconds", "operation") == expected
    assert _values("dti_store_errors_total", "operation") == expected


def test_timed_routes_are_counted_ones() -> None:
    assert set(metrics.TIMED_ROUTES) < {route for route, _ in metrics.HTTP_ROUTES}


def test_counted_routes_are_those_of_the_api() -> None:
    from services.api.app import create_app
    from services.contracts.models import MINIATURE
    from services.ledger.ledger import Ledger
    from services.storage.memory import MemoryStore

    paths = create_app(Ledger.open(MemoryStore()), MINIATURE).openapi()["paths"]
    routes = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    # Signed links are no part of the documented API.
    documented = {route for route in metrics.HTTP_ROUTES if route[0].startswith("/v1/")}
    assert documented <= routes
