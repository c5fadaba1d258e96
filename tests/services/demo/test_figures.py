"""What metrics say, in words."""

import pytest
from prometheus_client import CollectorRegistry

from services.demo.page import figures, lines, read
from services.metrics.exporters import PrometheusMetrics, samples


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
        metrics.observe("dti_image_wait_seconds", seconds)
    return metrics


def text(metrics: PrometheusMetrics) -> str:
    return metrics.exposition()[0].decode()


def test_metrics_are_told_in_words(api: PrometheusMetrics, engine: PrometheusMetrics) -> None:
    # As Ray exports them.
    of_ray = text(engine).replace("dti_", "ray_dti_")
    found = figures(samples(text(api)), samples(of_ray), subjects=4, seconds=90)
    assert [(each.value, each.words.partition(",")[0]) for each in found] == [
        ("160", "subjects an hour"),
        ("6", "HTTP requests answered"),
        ("38", "images generated"),
        ("4.5", "images in a call of the model"),
        ("75%", "of them joined others that were under way"),
        ("0.25 s", "is what 90% of the groups waited in the queue at most"),
    ]
    assert "1 of them refused" in found[1].words
    assert lines(found)[0] == "   160  subjects an hour, at the pace of these"


def test_failures_and_long_waits_are_not_kept_back(
    api: PrometheusMetrics, engine: PrometheusMetrics
) -> None:
    engine.count("dti_images_total", 2, outcome="failed")
    for _ in range(30):
        engine.observe("dti_image_wait_seconds", 500)
    found = figures(samples(text(api)), samples(text(engine)), subjects=4, seconds=90)
    assert found[2].words == "images generated, and 2 failed"
    assert found[-1].value == "over 80 s"


def test_what_nobody_tells_of_is_left_out(api: PrometheusMetrics) -> None:
    found = figures(samples(text(api)), samples(""), subjects=4, seconds=90)
    assert len(found) == 2


def test_metrics_that_nobody_serves_do_not_fail_a_demo() -> None:
    nowhere = "http://127.0.0.1:9/metrics"
    found = read(nowhere, nowhere, images=0, subjects=1, seconds=36)
    assert [each.value for each in found] == ["100", "0"]
