"""The dashboards: the service at a glance, training, and the store with the ledger."""

from helm.dashboards.grafana import Dashboard, Panel, hourly, quantiles, rates

_REQUESTS = (
    "sum by (namespace, release) "
    '(rate(dti_http_requests_total{SELECTOR, route!="other"}[$__rate_interval]))'
)
_SERVER_ERRORS = _REQUESTS.replace('"other"', '"other", status="5xx"')

_SERVICE = Dashboard(
    "service",
    "DTI / Service",
    [
        [
            Panel(
                "Requests by status",
                rates("dti_http_requests_total", "status", where='route!="other"'),
                unit="reqps",
                description="Probes and scrapes are left out.",
                stacked=True,
            ),
            Panel(
                "Share of server errors",
                {
                    "{{namespace}}/{{release}}": f"({_SERVER_ERRORS} or 0 * {_REQUESTS})"
                    f" / {_REQUESTS}"
                },
                unit="percentunit",
            ),
            Panel(
                "Time of requests, except for images",
                quantiles("dti_http_request_seconds", where='route!~"other|/v1/images/.*"'),
                unit="s",
            ),
        ],
        [
            Panel(
                "Time of images",
                quantiles("dti_image_seconds", legend="queue to decoding ")
                | quantiles("dti_image_queue_seconds", legend="queue ", levels=[99]),
                unit="s",
            ),
            Panel(
                "Images by outcome",
                rates("dti_images_total", "outcome"),
                unit="cps",
                stacked=True,
            ),
            Panel(
                "Queues of engines",
                {"queued images": "sum(dti_images_queued{SELECTOR})"}
                | rates("dti_engine_rejections_total", "reason", legend="rejections a second: "),
            ),
        ],
        [
            Panel(
                "Engines",
                {
                    "healthy {{application}}": "sum by (application) "
                    "(ray_serve_deployment_replica_healthy{SELECTOR})",
                    "wanted {{application}}": "max by (application) "
                    "(ray_serve_autoscaling_target_replicas{SELECTOR})",
                },
            ),
            Panel(
                "Fill of batches",
                {"mean of engines": "avg(dti_batch_fill_ratio{SELECTOR})"},
                unit="percentunit",
                description="Images in the last call of the model, by the largest batch.",
            ),
            Panel(
                "Subjects learned an hour",
                hourly(
                    "dti_subjects_total",
                    "{{namespace}}/{{release}}",
                    by="namespace, release",
                    where='outcome="succeeded"',
                ),
            ),
        ],
        [
            Panel(
                "Pods that Prometheus reaches",
                {"{{component}}": "sum by (component) (up{SELECTOR})"},
            ),
            Panel(
                "Requests over a limit of their tenant",
                rates("dti_rate_limited_total", "limit"),
                unit="reqps",
            ),
            Panel("Webhooks by outcome", rates("dti_webhook_deliveries_total", "outcome"), "cps"),
        ],
    ],
)

_TRAINING = Dashboard(
    "training",
    "DTI / Training",
    [
        [
            # Several supervisors set the same gauges, hence max and not sum.
            Panel(
                "Items of open jobs",
                {
                    "{{state}}": "max by (state) "
                    '(dti_items{SELECTOR, state=~"queued|running|failed"})'
                },
                stacked=True,
            ),
            Panel("Open jobs", {"{{pool}}": "max by (pool) (dti_jobs_open{SELECTOR})"}),
            Panel(
                "Age of the oldest job that waits",
                {"{{pool}}": "max by (pool) (dti_queue_oldest_seconds{SELECTOR})"},
                unit="s",
            ),
        ],
        [
            Panel(
                "Workers",
                {
                    "{{state}} {{pool}}": "max by (state, pool) (dti_workers{SELECTOR})",
                    "desired {{pool}}": "max by (pool) (dti_workers_desired{SELECTOR})",
                },
            ),
            Panel(
                "Starts of workers",
                quantiles("dti_worker_start_seconds", legend="time of a start "),
                unit="s",
            ),
            Panel(
                "Failed starts an hour",
                hourly("dti_worker_start_failures_total", "{{pool}}", by="pool"),
            ),
        ],
        [
            Panel(
                "Subjects an hour",
                hourly("dti_subjects_total", "{{outcome}}", by="outcome"),
                stacked=True,
            ),
            Panel(
                "Slots",
                {"{{state}}": "sum by (state) (dti_slots{SELECTOR})"},
                description="Slots for subjects in all workers: those in use, and all of them.",
            ),
            Panel("Time of a training step", quantiles("dti_training_step_seconds"), unit="s"),
        ],
        [
            Panel(
                "Share of GPUs that Ray has given away",
                {
                    "{{component}}": "sum by (component) "
                    '(ray_resources{SELECTOR, Name="GPU", State="USED"}) '
                    '/ sum by (component) (ray_resources{SELECTOR, Name="GPU"})'
                },
                unit="percentunit",
            ),
            Panel(
                "Utilization of GPUs",
                {"{{component}}": "avg by (component) (ray_node_gpus_utilization{SELECTOR})"},
                unit="percent",
                description="Share of the time in which a kernel ran, as the driver reports it.",
            ),
            Panel(
                "Memory of GPUs in use",
                {"{{component}}": "sum by (component) (ray_node_gram_used{SELECTOR})"},
                unit="mbytes",
            ),
        ],
        [
            Panel("Attempts by cause of their end", rates("dti_attempts_total", "cause"), "cps"),
            Panel("Subjects rejected", rates("dti_subject_rejections_total", "reason"), "cps"),
            Panel(
                "Subjects set aside for other tenants",
                {"subjects": "sum(rate(dti_subjects_preempted_total{SELECTOR}[$__rate_interval]))"},
                unit="cps",
            ),
        ],
    ],
)

_STORE = Dashboard(
    "store",
    "DTI / Store and ledger",
    [
        [
            Panel(
                "Calls by operation",
                rates("dti_store_request_seconds_count", "operation"),
                unit="ops",
                stacked=True,
            ),
            Panel(
                "99th percentile of calls",
                quantiles("dti_store_request_seconds", by="operation", levels=[99]),
                unit="s",
            ),
            Panel("Errors", rates("dti_store_errors_total", "error"), unit="ops"),
        ],
        [
            Panel(
                "Calls by component", rates("dti_store_request_seconds_count", "component"), "ops"
            ),
            Panel("Passes of the supervisor", quantiles("dti_supervisor_pass_seconds"), unit="s"),
            Panel(
                "Passes a minute",
                {
                    "{{namespace}}/{{release}}": "sum by (namespace, release) "
                    "(rate(dti_supervisor_pass_seconds_count{SELECTOR}[$__rate_interval])) * 60"
                },
            ),
        ],
        [
            Panel(
                "Leases lost and heartbeats failed an hour",
                hourly("dti_lease_losses_total", "leases lost")
                | hourly("dti_heartbeat_errors_total", "heartbeats failed"),
            ),
            Panel(
                "Claims",
                {
                    "conflicts": "sum(rate(dti_claim_conflicts_total{SELECTOR}[$__rate_interval]))",
                    "attempts": "sum(rate(dti_attempts_total{SELECTOR}[$__rate_interval]))",
                },
                unit="cps",
            ),
            Panel("Uploads rejected", rates("dti_upload_rejections_total", "reason"), unit="cps"),
        ],
        [
            Panel(
                "Lookups of tokens in engines",
                rates("dti_token_cache_requests_total", "outcome"),
                unit="cps",
                stacked=True,
            ),
            Panel(
                "Tokens and blends in memory",
                {"{{kind}}": "sum by (kind) (dti_token_cache_bytes{SELECTOR})"},
                unit="bytes",
            ),
            Panel(
                "Number of tokens and blends in memory",
                {"{{kind}}": "sum by (kind) (dti_token_cache_entries{SELECTOR})"},
            ),
        ],
    ],
)

DASHBOARDS = (_SERVICE, _TRAINING, _STORE)
