"""The one table of metrics. What is not in it is not counted.

A process exports at most `MAX_SERIES` series, whatever happens, because every label has few known
values. So no metric is told apart by tenant, job, item, token or key: logs have those.

What a row of the table of metrics is, and how many series can come of it.
"""

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


MAX_SERIES = 300
"""Of one process."""

_ALL: tuple[Process, ...] = ("api", "supervisor", "worker", "engine", "dispatcher")

_POOL = First("pool", 8)
_OPERATION = Known.of(
    "operation", "read", "head", "create", "replace", "put", "delete", "delete_if", "list"
)

ENDS = ("succeeded", "failed", "cancelled", "deleted")
"""How an item ends."""

SUBJECT_FAULTS = (
    "upload_missing",
    "upload_large",
    "upload_damaged",
    "bundle",
    "image",
    "settings",
    "consent",
)
"""What can be wrong with what was given for a subject; a bundle without a good image: image."""

HTTP_ROUTES = (
    ("/v1/uploads", "POST"),
    ("/v1/uploads/{sha256}", "PUT"),
    ("/v1/uploads/{sha256}", "GET"),
    ("/v1/uploads/{sha256}", "DELETE"),
    ("/v1/training-jobs", "POST"),
    ("/v1/training-jobs", "GET"),
    ("/v1/training-jobs/{job}", "GET"),
    ("/v1/training-jobs/{job}", "DELETE"),
    ("/v1/training-jobs/{job}/items", "GET"),
    ("/v1/training-jobs/{job}/items/{index}", "GET"),
    ("/v1/training-jobs/{job}/events", "GET"),
    ("/v1/training-jobs/{job}/cancel", "POST"),
    ("/v1/training-jobs/{job}/retry", "POST"),
    ("/v1/generation-jobs", "POST"),
    ("/v1/tokens", "GET"),
    ("/v1/tokens/{token}", "GET"),
    ("/v1/tokens/{token}", "DELETE"),
    ("/v1/tokens/{token}/file", "GET"),
    ("/v1/images/generations", "POST"),
    ("/v1/images/{image}", "GET"),
    ("/images/{tenant}/{image}", "GET"),
)
"""Routes that are told apart, each with its method. All else is other: health checks, and what is
offered, which takes no time.
"""

TIMED_ROUTES = tuple(
    dict.fromkeys(
        route
        for route, _ in HTTP_ROUTES
        # A stream takes as long as its job; the others here are few or alike.
        if not route.endswith(("/events", "/cancel", "/retry", "/{image}"))
    )
)
"""Routes whose times are told apart."""

TABLE: tuple[Metric, ...] = (
    # Jobs and subjects
    Metric(
        "dti_items",
        "gauge",
        "Items of jobs that have not ended, by state.",
        ("supervisor",),
        (Known.of("state", "queued", "running", *ENDS),),
    ),
    Metric("dti_jobs_open", "gauge", "Jobs that have not ended.", ("supervisor",), (_POOL,)),
    Metric(
        "dti_queue_oldest_seconds",
        "gauge",
        "Age of the oldest job that has items which nobody has begun; 0 if there is none.",
        ("supervisor",),
        (_POOL,),
        folds="max",
    ),
    Metric(
        "dti_subjects_total",
        "counter",
        "Subjects that have ended, by how.",
        ("supervisor", "worker"),
        (Known.of("outcome", *ENDS),),
    ),
    Metric(
        "dti_subjects_preempted_total",
        "counter",
        "Subjects that gave up their slot for another tenant's, to go on later.",
        ("worker",),
    ),
    Metric(
        "dti_attempts_total",
        "counter",
        "Attempts that have ended, by why.",
        ("supervisor", "worker", "dispatcher"),
        (Known.of("cause", *ENDS, "lost", "released", "superseded"),),
    ),
    Metric(
        "dti_subject_rejections_total",
        "counter",
        "Subjects that failed by what was given for them, by what was wrong.",
        ("api", "worker"),
        (Known.of("reason", *SUBJECT_FAULTS),),
    ),
    Metric(
        "dti_upload_rejections_total",
        "counter",
        "Uploads that were refused, by why.",
        ("api",),
        (Known.of("reason", "too_large", "wrong_size", "wrong_digest", "quota"),),
    ),
    # Training
    Metric(
        "dti_training_step_seconds",
        "histogram",
        "Time of one training step of all subjects in hand.",
        ("worker",),
        buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    ),
    Metric(
        "dti_slots",
        "gauge",
        "Slots for subjects in this worker: those in use, and all.",
        ("worker",),
        (Known.of("state", "used", "total"),),
    ),
    Metric(
        "dti_worker_start_seconds",
        "histogram",
        "From where a worker begins to load its model to its first step.",
        ("worker",),
        buckets=(5, 15, 30, 60, 120, 300, 600),
    ),
    Metric(
        "dti_workers",
        "gauge",
        "Workers by state: they work, wait for resources, or give back what they have.",
        ("supervisor",),
        (_POOL, Known.of("state", "running", "pending", "draining")),
    ),
    Metric(
        "dti_workers_desired",
        "gauge",
        "Workers that the backlog is worth, within the limits of the pool.",
        ("supervisor",),
        (_POOL,),
    ),
    # Generating
    Metric(
        "dti_images_total",
        "counter",
        "Images that ended, by outcome; late or cancelled: dropped before they were done.",
        ("engine",),
        (Known.of("outcome", "generated", "failed", "late", "cancelled"),),
    ),
    Metric(
        "dti_image_seconds",
        "histogram",
        "Time of an image from the queue to its decoding.",
        ("engine",),
        buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80),
    ),
    Metric(
        "dti_image_queue_seconds",
        "histogram",
        "Time in the queue: the longest of the images that join a batch together.",
        ("engine",),
        buckets=(0.01, 0.05, 0.25, 1, 2.5, 5, 10, 20, 40, 80),
    ),
    Metric("dti_images_queued", "gauge", "Images in the queue.", ("engine",)),
    Metric(
        "dti_images_joined_total",
        "counter",
        "Images that were begun: in a batch with others that were running, or not.",
        ("engine",),
        (Known.of("beside", "others", "none"),),
    ),
    Metric(
        "dti_image_steps_total",
        "counter",
        "Denoising steps of images; per count of dti_denoise_step_seconds, the mean batch size.",
        ("engine",),
    ),
    Metric(
        "dti_batch_fill_ratio",
        "gauge",
        "Images in the last call of the model, as a share of the largest batch.",
        ("engine",),
    ),
    Metric(
        "dti_denoise_step_seconds",
        "histogram",
        "Time of one denoising step of a batch, as the host sees it.",
        ("engine",),
        buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    ),
    Metric(
        "dti_decode_seconds",
        "histogram",
        "Time of decoding the images that finish at the same step.",
        ("engine",),
        buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    ),
    Metric(
        "dti_engine_rejections_total",
        "counter",
        "Requests that were rejected as a whole: the queue is full, the engine stops, or the "
        "request is invalid.",
        ("engine",),
        (Known.of("reason", "full", "stopping", "invalid"),),
    ),
    # The ledger and its store
    Metric(
        "dti_lease_losses_total",
        "counter",
        "Times that a living worker or dispatcher found itself held for dead.",
        ("worker", "dispatcher"),
    ),
    Metric(
        "dti_heartbeat_errors_total",
        "counter",
        "Heartbeats that failed: renewals of a worker's lease, or readings of commands.",
        ("worker", "dispatcher"),
    ),
    Metric(
        "dti_claim_conflicts_total",
        "counter",
        "Claims that another was first with.",
        ("worker", "dispatcher"),
    ),
    Metric(
        "dti_supervisor_pass_seconds",
        "histogram",
        "Time of going through the queue once.",
        ("supervisor",),
        buckets=(0.1, 0.5, 1, 5, 15, 60, 300),
    ),
    Metric(
        "dti_store_request_seconds",
        "histogram",
        "Time of one call to the store, with its retries, also of those that failed.",
        _ALL,
        (_OPERATION,),
        buckets=(0.01, 0.05, 0.25, 1, 10),
    ),
    Metric(
        "dti_store_errors_total",
        "counter",
        "Calls to the store that failed after all retries; a lost race is no failure.",
        _ALL,
        (_OPERATION, Known.of("error", "unavailable", "outcome_unknown", "denied")),
    ),
    # Tokens in an engine
    Metric(
        "dti_token_cache_requests_total",
        "counter",
        "Lookups of tokens for images, by outcome.",
        ("engine",),
        (
            Known.of(
                "outcome",
                *("hit", "revalidated", "stale", "miss"),
                *("gone", "damaged", "wrong_model", "unavailable"),
            ),
        ),
    ),
    Metric(
        "dti_token_cache_entries",
        "gauge",
        "Tokens, and blends of tokens, in memory.",
        ("engine",),
        (Known.of("kind", "token", "blend"),),
    ),
    Metric(
        "dti_token_cache_bytes",
        "gauge",
        "Estimated memory of the tokens, and of the blends, in memory.",
        ("engine",),
        (Known.of("kind", "token", "blend"),),
    ),
    # HTTP
    Metric(
        "dti_http_requests_total",
        "counter",
        "Requests that were answered, by route, method and class of status.",
        ("api",),
        (Known(("route", "method"), HTTP_ROUTES), Known.of("status", "2xx", "4xx", "5xx")),
    ),
    Metric(
        "dti_http_request_seconds",
        "histogram",
        "Time from a request to the end of its answer; of streams of events, not counted.",
        ("api",),
        (Known.of("route", *TIMED_ROUTES),),
        buckets=(0.05, 0.25, 1, 5),
    ),
    Metric(
        "dti_rate_limited_total",
        "counter",
        "Requests that were refused with 429, by the limit that was reached.",
        ("api",),
        (Known.of("limit", "requests", "open_items", "upload_bytes"),),
    ),
    Metric(
        "dti_webhook_deliveries_total",
        "counter",
        "Deliveries of webhooks, by how they went; a refused one is to a private address.",
        ("supervisor",),
        (Known.of("outcome", "delivered", "retried", "given_up", "refused"),),
    ),
)
