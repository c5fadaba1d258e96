"""The output for Prometheus is complete, valid and within the promised size."""

import itertools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.metrics import MAX_SERIES, Metric, Process, PrometheusMetrics


def _value(counting: PrometheusMetrics, sample: str, **labels: str) -> float | None:
    body, _ = counting.exposition()
    for family in text_string_to_metric_families(body.decode()):
        for found in family.samples:
            if found.name == sample and found.labels == labels:
                return found.value
    return None


def _count_all(counting: PrometheusMetrics) -> None:
    """Every metric with every value that is known, and more that are not."""
    for metric in counting.table.values():
        for labels in _labellings(metric):
            if metric.kind == "counter":
                counting.count(metric.name, **labels)
            elif metric.kind == "gauge":
                counting.set(metric.name, 1, **labels)
            else:
                counting.observe(metric.name, 1, **labels)


def _labellings(metric: Metric) -> list[dict[str, str]]:
    groups: list[list[dict[str, str]]] = []
    for labels in metric.label_groups:
        strange = [tuple(f"strange-{n}" for _ in labels.labels) for n in range(20)]
        values = [*getattr(labels, "values", []), *strange]
        groups.append([dict(zip(labels.labels, each, strict=True)) for each in values])
    return [
        {label: value for part in parts for label, value in part.items()}
        for parts in itertools.product(*groups)
    ]


def test_counts_times_and_gauges_are_read() -> None:
    counting = PrometheusMetrics(process="worker")
    counting.count("dti_subjects_total", outcome="succeeded")
    counting.count("dti_subjects_total", 2, outcome="succeeded")
    counting.observe("dti_training_step_seconds", 0.3)
    counting.set("dti_slots", 4, state="used")
    counting.set("dti_slots", 3, state="used")
    assert _value(counting, "dti_subjects_total", outcome="succeeded") == 3
    assert _value(counting, "dti_training_step_seconds_bucket", le="0.25") == 0
    assert _value(counting, "dti_training_step_seconds_bucket", le="0.5") == 1
    assert _value(counting, "dti_training_step_seconds_sum") == 0.3
    assert _value(counting, "dti_slots", state="used") == 3
    assert counting.exposition()[1].startswith("text/plain; version=")


def test_two_keep_their_counts_apart() -> None:
    one, two = PrometheusMetrics(process="worker"), PrometheusMetrics(process="worker")
    one.count("dti_lease_losses_total")
    assert _value(one, "dti_lease_losses_total") == 1
    assert _value(two, "dti_lease_losses_total") == 0


@pytest.mark.parametrize("process", get_args(Process))
def test_the_number_of_time_series_is_at_most_what_the_table_says(process: Process) -> None:
    counting = PrometheusMetrics(process=process)
    _count_all(counting)
    families = text_string_to_metric_families(counting.exposition()[0].decode())
    series = [sample for family in families for sample in family.samples]
    assert len(series) == sum(metric.max_series for metric in counting.table.values())
    assert len(series) <= MAX_SERIES


def test_threads_lose_no_count() -> None:
    counting = PrometheusMetrics(process="supervisor")

    def work(number: int) -> None:
        for _ in range(200):
            counting.count("dti_subjects_total", outcome="failed")
            counting.set("dti_jobs_open", 1, pool=f"pool-{number}")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    assert _value(counting, "dti_subjects_total", outcome="failed") == 12 * 200
    # Eight are told apart, whichever were first.
    assert _value(counting, "dti_jobs_open", pool="other") == 4


@pytest.fixture
def promtool() -> str:
    found = os.environ.get("DTI_TEST_PROMTOOL") or shutil.which("promtool")
    if not found:
        pytest.skip("DTI_TEST_PROMTOOL is not set, and there is no promtool on the PATH")
    return found


@pytest.mark.parametrize("process", get_args(Process))
def test_promtool_finds_nothing(promtool: str, process: Process) -> None:
    counting = PrometheusMetrics(process=process)
    _count_all(counting)
    body, _ = counting.exposition()
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_counting_loads_neither_ray_nor_torch() -> None:
    code = "import sys, services.metrics; sys.exit(bool({'ray', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
