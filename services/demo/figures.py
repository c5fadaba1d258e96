"""Figures of a run in words, from the metrics of the API and of the Ray node."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf

import httpx

from services.metrics.exporters import MetricSamples, parse_samples

_TIMEOUT_S = 40.0  # Ray exports what is counted some ten seconds later
_POLL_INTERVAL_S = 1.0
_QUANTILE = 0.9  # of the groups, for the waiting time


@dataclass(frozen=True, slots=True)
class ServiceFigure:
    """A figure of the service's metrics."""

    value: str
    words: str


def read_figures(
    api_url: str,
    node_url: str,
    *,
    num_images: int,
    num_subjects: int,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> list[ServiceFigure]:
    """Read the metrics of the API and of a Ray node, once `num_images` images are counted.

    `num_subjects` were learned in `seconds`.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        engine = _samples(node_url)
        if _generated(engine) >= num_images or time.monotonic() > deadline:
            return figures(_samples(api_url), engine, num_subjects=num_subjects, seconds=seconds)
        sleep(_POLL_INTERVAL_S)


def figures(
    api: MetricSamples, engine: MetricSamples, *, num_subjects: int, seconds: float
) -> list[ServiceFigure]:
    """Return the figures of these metrics; what was not measured is left out."""
    found = [
        ServiceFigure(
            f"{3600 * num_subjects / seconds:.0f}", "subjects an hour, at the pace of these"
        ),
        _requests(api),
    ]
    if generated := _generated(engine):
        found.append(ServiceFigure(f"{generated:.0f}", "images generated, without any that failed"))
        if failed := engine.total("dti_images_total", outcome="failed"):
            found[-1] = ServiceFigure(
                f"{generated:.0f}", f"images generated, and {failed:.0f} failed"
            )
    if calls := engine.total("dti_denoise_step_seconds_count"):
        mean = engine.total("dti_image_steps_total") / calls
        found.append(
            ServiceFigure(
                f"{mean:.1f}", "images per call of the model, on average: the batch's fill"
            )
        )
    joined = engine.total("dti_images_joined_total", beside="others")
    if begun := joined + engine.total("dti_images_joined_total", beside="none"):
        found.append(ServiceFigure(f"{joined / begun:.0%}", "of them joined a running batch"))
    if (waited := _within(engine, "dti_image_queue_seconds")) is not None:
        shown = f"{waited:g} s" if waited < inf else "over 80 s"
        found.append(
            ServiceFigure(
                shown, f"is the longest wait in the queue of {_QUANTILE:.0%} of the groups"
            )
        )
    return found


def _requests(api: MetricSamples) -> ServiceFigure:
    counts = {
        status: api.total("dti_http_requests_total", status=status)
        for status in ("2xx", "4xx", "5xx")
    }
    refused, failed = counts["4xx"], counts["5xx"]
    words = "HTTP requests answered"
    if refused or failed:
        words += f", {refused:.0f} of them refused and {failed:.0f} failed"
    return ServiceFigure(f"{sum(counts.values()):.0f}", words)


def _generated(engine: MetricSamples) -> float:
    return engine.total("dti_images_total", outcome="generated")


def _within(engine: MetricSamples, histogram: str) -> float | None:
    """Return the upper bound of the bucket that reaches `_QUANTILE` of a histogram, or None."""
    buckets = engine.buckets(histogram)
    if not buckets or not buckets[-1][1]:
        return None
    rank = ceil(_QUANTILE * buckets[-1][1])
    return next(bound for bound, count in buckets if count >= rank)


def _samples(url: str) -> MetricSamples:
    """Return no samples if the URL does not answer, so that the demo goes on without figures."""
    try:
        return parse_samples(httpx.get(url, timeout=5, trust_env=False).raise_for_status().text)
    except httpx.HTTPError:
        return parse_samples("")


def lines(found: Sequence[ServiceFigure]) -> list[str]:
    """Return one aligned line per figure."""
    width = max(len(each.value) for each in found)
    return [f"{each.value:>{width}}  {each.words}" for each in found]
