"""The one table of metrics; what is not in it cannot be counted.

A process exports at most `MAX_SERIES` series, whatever happens, since every label has few known
values. So no metric has a label for tenants, jobs, items, tokens or keys: the logs have those.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

Process = Literal["api", "supervisor", "worker", "engine", "dispatcher"]
"""The processes that count metrics."""

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "seconds", "bytes", "ratio"]

OTHER = "other"
"""Stands for a label's value that is not among the known ones."""


@dataclass(frozen=True, slots=True)
class KnownValues:
    """Labels whose values are few and known; values of two labels can be known as pairs."""

    labels: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, label: str, *values: str) -> "KnownValues":
        return cls((label,), tuple((value,) for value in values))

    @property
    def max_values(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class FirstValues:
    """A label whose values an operator chooses: a process keeps the first few that it meets."""

    label: str
    max_values: int

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,)


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table: all that is needed to count, export and read a metric."""

    name: str
    kind: Kind
    help: str
    """What it counts, in one sentence."""
    processes: tuple[Process, ...]
    label_groups: tuple[KnownValues | FirstValues, ...] = ()
    buckets: tuple[float, ...] = ()
    aggregation: Literal["sum", "max"] = "sum"
    """What a gauge shows for the values of a label that are `OTHER` together."""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(label for group in self.label_groups for label in group.labels)

    @property
    def unit(self) -> Unit:
        """The unit that the name ends in."""
        suffix = self.name.removesuffix("_total").rpartition("_")[2]
        return suffix if suffix in ("seconds", "bytes", "ratio") else ""

    @property
    def max_series(self) -> int:
        """The number of series in one process at the worst."""
        # Of a histogram: its buckets, the one without a bound, sum and count.
        each = len(self.buckets) + 3 if self.kind == "histogram" else 1
        return each * prod(group.max_values + 1 for group in self.label_groups)


MAX_SERIES = 300
"""Of one process: what a Prometheus server is asked to keep."""

_ALL: tuple[Process, ...] = ("api", "supervisor", "worker", "engine", "dispatcher")

_POOL = FirstValues("pool", 8)
_OPERATION = KnownValues.of(
    "operation", "read", "head", "create", "replace", "put", "delete", "delete_if", "list"
)

_TOKEN_OUTCOMES = (
    *("hit", "revalidated", "stale", "miss"),
    *("gone", "damaged", "wrong_model", "unavailable"),
)

ENDED_STATES = ("succeeded", "failed", "cancelled", "deleted")
"""States in which an item has ended."""

REJECTION_REASONS = (
    *("upload_missing", "upload_large", "upload_damaged"),
    *("bundle", "image", "settings", "consent"),
)
"""What can be wrong with a subject; a bundle without any good image counts as image."""

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
"""Routes with series of their own, each with its method.

They are a choice within `MAX_SERIES`, hence listed by hand; everything else, such as health checks,
counts as other. A test compares them with the API's.
"""

TIMED_ROUTES = tuple(
    dict.fromkeys(
        route
        for route, _ in HTTP_ROUTES
        # A stream takes as long as its job; the other routes left out are rare.
        if not route.endswith(("/events", "/cancel", "/retry", "/{image}"))
    )
)
"""Routes whose times have series of their own."""

TABLE: tuple[Metric, ...] = (
    # Jobs and subjects
    Metric(
        "dti_items",
        "gauge",
        "Items of open jobs, by state.",
        ("supervisor",),
        (KnownValues.of("state", "queued", "running", *ENDED_STATES),),
    ),
    Metric(
        "dti_jobs_open", "gauge", "Open jobs: those that have not ended.", ("supervisor",), (_POOL,)
    ),
    Metric(
        "dti_queue_oldest_seconds",
        "gauge",
        "Age of the oldest job with items that have not been started; 0 if there is none.",
        ("supervisor",),
        (_POOL,),
        aggregation="max",
    ),
    Metric(
        "dti_subjects_total",
        "counter",
        "Subjects that have ended, by outcome.",
        ("supervisor", "worker"),
        (KnownValues.of("outcome", *ENDED_STATES),),
    ),
    Metric(
        "dti_subjects_preempted_total",
        "counter",
        "Subjects that lost their slot to another tenant's, to resume later.",
        ("worker",),
    ),
    Metric(
        "dti_attempts_total",
        "counter",
        "Attempts that have ended, by cause.",
        ("supervisor", "worker", "dispatcher"),
        (KnownValues.of("cause", *ENDED_STATES, "lost", "released", "superseded"),),
    ),
    Metric(
        "dti_subject_rejections_total",
        "counter",
        "Subjects that were rejected, by what was wrong with them.",
        ("api", "worker"),
        (KnownValues.of("reason", *REJECTION_REASONS),),
    ),
    Metric(
        "dti_upload_rejections_total",
        "counter",
        "Uploads that were rejected, by reason.",
        ("api",),
        (KnownValues.of("reason", "too_large", "wrong_size", "wrong_digest", "quota"),),
    ),
    # Training
    Metric(
        "dti_training_step_seconds",
        "histogram",
        "Time of one training step of all subjects in slots.",
        ("worker",),
        buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    ),
    Metric(
        "dti_slots",
        "gauge",
        "Slots for subjects in this worker: those in use, and all of them.",
        ("worker",),
        (KnownValues.of("state", "used", "total"),),
    ),
    Metric(
        "dti_worker_start_seconds",
        "histogram",
        "Time from the start of loading a worker's model to its first training step.",
        ("worker",),
        buckets=(5, 15, 30, 60, 120, 300, 600),
    ),
    Metric(
        "dti_worker_start_failures_total",
        "counter",
        "Workers that ended before they had run for 30 s, without being asked to.",
        ("supervisor",),
        (_POOL,),
    ),
    Metric(
        "dti_workers",
        "gauge",
        "Workers by state: running, waiting for resources or loading, or draining.",
        ("supervisor",),
        (_POOL, KnownValues.of("state", "running", "pending", "draining")),
    ),
    Metric(
        "dti_workers_desired",
        "gauge",
        "Workers that the backlog asks for, within the limits of the pool.",
        ("supervisor",),
        (_POOL,),
    ),
    # Generating
    Metric(
        "dti_images_total",
        "counter",
        "Images that ended, by outcome; late or cancelled: dropped before they were done.",
        ("engine",),
        (KnownValues.of("outcome", "generated", "failed", "late", "cancelled"),),
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
        (KnownValues.of("beside", "others", "none"),),
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
        "Requests that were rejected: the queue is full, the engine stops, or they are invalid.",
        ("engine",),
        (KnownValues.of("reason", "full", "stopping", "invalid"),),
    ),
    # The ledger and its store
    Metric(
        "dti_lease_losses_total",
        "counter",
        "Times that a living worker or dispatcher lost its lease.",
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
        "Claims that another worker or dispatcher was faster with.",
        ("worker", "dispatcher"),
    ),
    Metric(
        "dti_supervisor_pass_seconds",
        "histogram",
        "Time of one pass of the supervisor over all open jobs.",
        ("supervisor",),
        buckets=(0.1, 0.5, 1, 5, 15, 60, 300),
    ),
    Metric(
        "dti_store_request_seconds",
        "histogram",
        "Time of one call to the store with its retries, including failed calls.",
        _ALL,
        (_OPERATION,),
        buckets=(0.01, 0.05, 0.25, 1, 10),
    ),
    Metric(
        "dti_store_errors_total",
        "counter",
        "Calls to the store that failed after all retries; a lost race is not a failure.",
        _ALL,
        (_OPERATION, KnownValues.of("error", "unavailable", "outcome_unknown", "denied")),
    ),
    # Tokens in an engine
    Metric(
        "dti_token_cache_requests_total",
        "counter",
        "Lookups of tokens for images, by outcome.",
        ("engine",),
        (KnownValues.of("outcome", *_TOKEN_OUTCOMES),),
    ),
    Metric(
        "dti_token_cache_entries",
        "gauge",
        "Tokens, and blends of tokens, in memory.",
        ("engine",),
        (KnownValues.of("kind", "token", "blend"),),
    ),
    Metric(
        "dti_token_cache_bytes",
        "gauge",
        "Estimated memory of the tokens, and of the blends, in memory.",
        ("engine",),
        (KnownValues.of("kind", "token", "blend"),),
    ),
    # HTTP
    Metric(
        "dti_http_requests_total",
        "counter",
        "Requests, by route, method and class of status.",
        ("api",),
        (
            KnownValues(("route", "method"), HTTP_ROUTES),
            KnownValues.of("status", "2xx", "4xx", "5xx"),
        ),
    ),
    Metric(
        "dti_http_request_seconds",
        "histogram",
        "Time from a request to the end of its response, except for event streams.",
        ("api",),
        (KnownValues.of("route", *TIMED_ROUTES),),
        buckets=(0.05, 0.25, 1, 5),
    ),
    Metric(
        "dti_rate_limited_total",
        "counter",
        "Requests that were answered 429, by the limit that was reached.",
        ("api",),
        (KnownValues.of("limit", "requests", "open_items", "unknown_keys", "shares"),),
    ),
    Metric(
        "dti_webhook_deliveries_total",
        "counter",
        "Deliveries of webhooks, by outcome; a refused one was to a private address.",
        ("supervisor",),
        (KnownValues.of("outcome", "delivered", "retried", "given_up", "refused"),),
    ),
)
