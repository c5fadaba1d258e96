"""`python -m services.supervisor`: the supervisor, connected to a Ray cluster.

Any number may run; what two do is done once, but for workers, of which there may be more than are
wanted for a while. SIGTERM ends it and leaves the workers at work; with --drain it drains them.
"""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from dti_engine.errors import DTIError
from services import logs, metrics
from services.contracts.models import MINIATURE, ServedModels, read_models
from services.ledger.ledger import Ledger
from services.settings import LedgerSettings
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store
from services.supervisor.supervisor import Supervisor, SupervisorTimeouts
from services.webhooks.deliverer import Deliverer, Outcome
from services.webhooks.targets import WebhookSettings

if TYPE_CHECKING:
    from services.training.ray_pool import RayPool

READY = "ready"
"""What it prints once its first turn is done."""


def main(
    store: Annotated[str, typer.Option(envvar="DTI_STORE", help="s3://BUCKET/PREFIX, or a path")],
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="of the Ray cluster; auto: on this host")
    ] = "auto",
    node_ip: Annotated[
        str | None, typer.Option(help="of this host, as the cluster knows it, where Ray errs")
    ] = None,
    served_models: Annotated[
        Path | None, typer.Option(envvar="DTI_MODELS", help="JSON; none: the miniature alone")
    ] = None,
    lease: Annotated[float, typer.Option(help="seconds; the same for the whole service")] = 60,
    look: Annotated[float, typer.Option(help="seconds between looks of idle workers")] = 1,
    checkpoint: Annotated[float, typer.Option(help="seconds between two of a subject")] = 30,
    stuck: Annotated[
        float, typer.Option(help="seconds until a worker whose device hangs ends itself")
    ] = 600,
    silence: Annotated[
        float, typer.Option(help="seconds without an answer until a worker is killed")
    ] = 600,
    turn: Annotated[float, typer.Option(help="seconds between looks at all jobs")] = 2,
    idle: Annotated[float, typer.Option(help="seconds for which an idle worker is kept")] = 60,
    share: Annotated[
        float, typer.Option(help="seconds until workers go for an offer that waits for its share")
    ] = 120,
    hold: Annotated[
        float, typer.Option(help="seconds of an offer's turn where places are too few")
    ] = 600,
    threads: Annotated[int | None, typer.Option(help="of torch, of a worker on a CPU")] = None,
    allow_private_webhooks: Annotated[
        bool, typer.Option(help="also send webhooks to this host, and by http")
    ] = False,
    drain: Annotated[bool, typer.Option(help="drain all workers when it is stopped")] = False,
) -> None:
    """Brings jobs forward and sizes the pools of training workers on Ray."""
    logs.configure("supervisor")
    stopped = threading.Event()

    try:
        known = read_models(served_models) if served_models else MINIATURE
        settings = LedgerSettings(lease=lease, look=look)
        pool = _connect(
            known,
            store,
            ray_address,
            node_ip,
            settings,
            silence=silence,
            checkpoint=checkpoint,
            stuck=stuck,
            threads=threads,
        )
        ledger = Ledger.on(InstrumentedStore(open_store(store)), settings)
    except DTIError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    webhooks = WebhookSettings(
        allow_http=allow_private_webhooks, allow_private=allow_private_webhooks
    )
    deliverer = Deliverer(ledger, webhooks, on_outcome=_count)
    supervision = Supervisor(
        ledger,
        known,
        pool,
        deliver=deliverer.deliver_due,
        pace=SupervisorTimeouts(turn=turn, idle=idle, share=share, hold=hold),
    )

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    # Not before: Ray takes these signals for itself when it is connected to.
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, stop)

    threading.Thread(target=_announce, args=(supervision, stopped), daemon=True).start()
    supervision.run(stopped)
    deliverer.close()
    if drain:
        pool.drain_all()
    sys.exit(0)


def _connect(
    served_models: ServedModels,
    store: str,
    address: str,
    node_ip: str | None,
    settings: LedgerSettings,
    *,
    silence: float,
    checkpoint: float,
    stuck: float,
    threads: int | None,
) -> "RayPool":
    from services.metrics.ray_exporter import RayMetrics
    from services.training.factory import WorkerSpec
    from services.training.ray_pool import RayPool, connect  # loads Ray, and torch

    connect(address, store, node_ip)
    metrics.use(RayMetrics(process="supervisor"))
    plans = {
        name: WorkerSpec(
            store=store,
            pool=name,
            model=served_model,
            lease=settings.lease,
            look=settings.look,
            checkpoint=checkpoint,
            stuck=stuck,
            threads=threads,
        )
        for name, served_model in served_models.items()
    }
    return RayPool(plans, served_models, silence)


def _count(outcome: Outcome) -> None:
    counted = metrics.current()
    if outcome == "failed":
        counted.count("dti_webhook_deliveries_total", outcome="retried")
    elif outcome != "dropped":
        counted.count("dti_webhook_deliveries_total", outcome=outcome)


def _announce(supervision: Supervisor, stopped: threading.Event) -> None:
    while not supervision.turns and not stopped.wait(0.1):
        pass
    if supervision.turns:
        print(READY, flush=True)


if __name__ == "__main__":
    typer.run(main)
