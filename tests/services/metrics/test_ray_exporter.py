"""Metrics of actors of a real Ray node are read from the node by the names of the table."""

import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Return the address at which a node of one core exports its metrics."""
    import ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=80_000_000,
        log_to_driver=False,
        _metrics_export_port=port,
    )
    yield f"http://127.0.0.1:{port}/metrics"
    ray.shutdown()


def _relabelled(text: str) -> str:
    """Return the metrics after the relabelling that the operators' manual describes."""
    manual = (ROOT / "docs/how-to/operations.md").read_text()
    (pattern,) = re.findall(r"regex: (ray_\S+)\n\s+target_label: __name__\n", manual)
    return re.sub(
        r"^((?:# (?:HELP|TYPE) )?)(\w+)",
        lambda found: found[1] + re.sub(f"^{pattern}$", r"\1", found[2]),
        text,
        flags=re.M,
    )


def test_metrics_of_actors_have_the_names_of_the_table(endpoint: str) -> None:
    import ray

    class Counting:
        def __init__(self) -> None:
            from services.metrics.ray_exporter import RayMetrics

            self.metrics = RayMetrics(process="worker")

        def count(self) -> list[str]:
            counting = self.metrics
            counting.count("dti_lease_losses_total", 2)
            counting.count("dti_lease_losses_total", 0)
            counting.count("dti_subjects_total", outcome="succeeded")
            counting.count("dti_subjects_total", outcome="vanished")
            for seconds in (0.3, 0.3, 1000):
                counting.observe("dti_training_step_seconds", seconds)
            counting.set("dti_slots", 3, state="used")
            counting.set("dti_slots", 4, state="total")
            try:
                counting.count("dti_nothing_total")
            except ValueError as error:
                return [str(error)]
            return []

    actor = ray.remote(Counting).remote()
    (refusal,) = ray.get(actor.count.remote())
    assert "no metric" in refusal

    families = {}
    while {
        "dti_slots",
        "dti_subjects",
        "dti_lease_losses",
        "dti_training_step_seconds",
    } - families.keys():
        # Ray reports every ten seconds; a test that hangs here says that ours are not exported.
        time.sleep(0.5)
        try:
            with urllib.request.urlopen(endpoint, timeout=10) as answer:
                text = _relabelled(answer.read().decode())
        except OSError:  # its agent takes a while to start
            continue
        own_lines = "".join(line for line in text.splitlines(keepends=True) if "dti_" in line)
        families = {family.name: family for family in text_string_to_metric_families(own_lines)}

    def values(family: str, label: str) -> dict[str, float]:
        return {
            f"{sample.name} {sample.labels.get(label, '')}".strip(): sample.value
            for sample in families[family].samples
        }

    assert values("dti_lease_losses", "") == {"dti_lease_losses_total": 2}
    assert values("dti_subjects", "outcome") == {
        "dti_subjects_total succeeded": 1,
        "dti_subjects_total other": 1,
    }
    assert values("dti_slots", "state") == {"dti_slots used": 3, "dti_slots total": 4}
    steps = values("dti_training_step_seconds", "le")
    assert steps["dti_training_step_seconds_bucket 0.25"] == 0
    assert steps["dti_training_step_seconds_bucket 0.5"] == 2
    assert steps["dti_training_step_seconds_bucket 30.0"] == 2
    assert (
        steps["dti_training_step_seconds_bucket +Inf"]
        == steps["dti_training_step_seconds_count"]
        == 3
    )
    # As the manual warns: Ray knows buckets alone, and adds up their middles.
    assert steps["dti_training_step_seconds_sum"] == 2 * 0.375 + 2 * 30
    kinds = {name: family.type for name, family in families.items()}
    assert kinds == {
        "dti_lease_losses": "counter",
        "dti_subjects": "counter",
        "dti_slots": "gauge",
        "dti_training_step_seconds": "histogram",
    }
