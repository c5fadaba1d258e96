"""Metrics become figures in words."""

import pytest
from prometheus_client import CollectorRegistry

from services.demo.figures import figures, lines, read_figures
from services.metrics.exporters import PrometheusMetrics, parse_samples


@pytest.fixture
def api() -> PrometheusMetrics:
    metrics = PrometheusMetrics(CollectorRegistry(), process="api")
    for status in ("2xx",) * 5 + ("4xx",):
        metrics.count("dti_http_requests_total", route="/v1/tokens", method="GET", status=status)
    return metrics


@pytest.fixture
def engine() -> PrometheusMetrics:
    metrics = PrometheusMetrics(CollectorRegistry(), process="engine")
    metrics.count("dti_images_total", 38, outcome="generated")
    metrics.count("dti_image_steps_total", 90)
    for _ in range(20):
        metrics.observe("dti_denoise_step_seconds", 0.2)
    metrics.count("dti_images_joined_total", 30, beside="others")
    metrics.count("dti_images_joined_total", 10, beside="none")
    for seconds in (0.1,) * 9 + (7,):
        metrics.observe("dti_image_queue_seconds", seconds)
    return metrics


def text(metrics: PrometheusMetrics) -> str:
    return metrics.exposition()[0].decode()


def test_metrics_become_words(api: PrometheusMetrics, engine: PrometheusMetrics) -> None:
    # As Ray exports them.
    of_ray = text(engine).replace("dti_", "ray_dti_")
    found = figures(parse_samples(text(api)), parse_samples(of_ray), num_subjects=4, seconds=90)
    assert [(each.value, each.words.partition(",")[0]) for each in found] == [
        ("160", "subjects an hour"),
        ("6", "HTTP requests answered"),
        ("38", "images generated"),
        ("4.5", "images per call of the model"),
        ("75%", "of them joined a running batch"),
        ("0.25 s", "is the longest wait in the queue of 90% of the groups"),
    ]
    assert "1 of them refused" in found[1].words
    assert lines(found)[0] == "   160  subjects an hour, at the pace of these"


def test_failures_and_long_waits_are_shown(
    api: PrometheusMetrics, engine: PrometheusMetrics
) -> None:
    engine.count("dti_images_total", 2, outcome="failed")
    for _ in range(30):
        engine.observe("dti_image_queue_seconds", 500)
    found = figures(
        parse_samples(text(api)), parse_samples(text(engine)), num_subjects=4, seconds=90
    )
    assert found[2].words == "images generated, and 2 failed"
    assert found[-1].value == "over 80 s"


def test_figures_that_are_not_measured_are_left_out(api: PrometheusMetrics) -> None:
    found = figures(parse_samples(text(api)), parse_samples(""), num_subjects=4, seconds=90)
    assert len(found) == 2


def test_a_metrics_endpoint_that_does_not_answer_fails_no_demo() -> None:
    nowhere = "http://127.0.0.1:9/metrics"
    found = read_figures(nowhere, nowhere, num_images=0, num_subjects=1, seconds=36)
    assert [each.value for each in found] == ["100", "0"]
