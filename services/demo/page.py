"""What the service's own metrics say of a run, in words.

The demo's page: one HTML file that needs nothing beside it.
"""

import time
from collections.abc import Callable, Sequence
from math import ceil, inf
from pathlib import Path

import httpx

from dti_engine.html.page import data_uri, duration, template, with_token
from services.demo.results import Figure, Results
from services.metrics.exporters import TrainingBatch, samples


def render(results: Results, output: Path) -> str:
    """The page; images are taken from the output folder and put into it."""

    def png_uri(file: str) -> str:
        return data_uri((output / file).read_bytes(), "image/png")

    return template(Path(__file__).parent).render(
        results=results,
        data_uri=png_uri,
        duration=duration,
        score="{:.2f}".format,
        with_token=with_token,
    )


_LATEST = 40.0  # seconds: Ray shows what is counted some ten seconds later
_LOOK = 1.0
_MOST = 0.9  # of the groups that have waited, to be spoken for


def read(
    api: str,
    node: str,
    *,
    images: int,
    subjects: int,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Figure]:
    """Of the API's metrics and those of a Ray node, each by its URL, as soon as so many images
    are counted. subjects: learned, in so many seconds.
    """
    ends = time.monotonic() + _LATEST
    while True:
        engine = _samples(node)
        if _generated(engine) >= images or time.monotonic() > ends:
            return figures(_samples(api), engine, subjects=subjects, seconds=seconds)
        sleep(_LOOK)


def figures(
    api: TrainingBatch, engine: TrainingBatch, *, subjects: int, seconds: float
) -> list[Figure]:
    """The same of metrics that were read; what they do not tell of is left out."""
    found = [
        Figure(f"{3600 * subjects / seconds:.0f}", "subjects an hour, at the pace of these"),
        _requests(api),
    ]
    if generated := _generated(engine):
        found.append(Figure(f"{generated:.0f}", "images generated, without any that failed"))
        if failed := engine.total("dti_images_total", outcome="failed"):
            found[-1] = Figure(f"{generated:.0f}", f"images generated, and {failed:.0f} failed")
    if calls := engine.total("dti_denoise_step_seconds_count"):
        mean = engine.total("dti_image_steps_total") / calls
        found.append(
            Figure(f"{mean:.1f}", "images in a call of the model, on average: the batch's fill")
        )
    joined = engine.total("dti_images_joined_total", beside="others")
    if begun := joined + engine.total("dti_images_joined_total", beside="none"):
        found.append(Figure(f"{joined / begun:.0%}", "of them joined others that were under way"))
    if (waited := _within(engine, "dti_image_wait_seconds")) is not None:
        shown = f"{waited:g} s" if waited < inf else "over 80 s"
        found.append(
            Figure(shown, f"is what {_MOST:.0%} of the groups waited in the queue at most")
        )
    return found


def _requests(api: TrainingBatch) -> Figure:
    counts = {
        status: api.total("dti_http_requests_total", status=status)
        for status in ("2xx", "4xx", "5xx")
    }
    refused, failed = counts["4xx"], counts["5xx"]
    words = "HTTP requests answered"
    if refused or failed:
        words += f", {refused:.0f} of them refused and {failed:.0f} failed"
    return Figure(f"{sum(counts.values()):.0f}", words)


def _generated(engine: TrainingBatch) -> float:
    return engine.total("dti_images_total", outcome="generated")


def _within(engine: TrainingBatch, histogram: str) -> float | None:
    """The bound of a bucket within which most are; None: there are none."""
    buckets = engine.buckets(histogram)
    if not buckets or not buckets[-1][1]:
        return None
    wanted = ceil(_MOST * buckets[-1][1])
    return next(bound for bound, count in buckets if count >= wanted)


def _samples(url: str) -> TrainingBatch:
    """Nothing where nobody answers: figures are no reason for a demo to fail."""
    try:
        return samples(httpx.get(url, timeout=5, trust_env=False).raise_for_status().text)
    except httpx.HTTPError:
        return samples("")


def lines(found: Sequence[Figure]) -> list[str]:
    """One for each, for people."""
    width = max(len(each.value) for each in found)
    return [f"{each.value:>{width}}  {each.words}" for each in found]
