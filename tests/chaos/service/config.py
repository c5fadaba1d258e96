"""The configuration of a run: the service, the jobs of its rounds, and the limits."""

import json
from dataclasses import dataclass
from pathlib import Path

from chaos.config import RoundConfig
from services.local.service import LocalService, LocalServiceSettings, free_port

POOL = "miniature"
SLOTS = 4
"""Slots of a worker: as many as a job has items, so that one worker has room for all."""


@dataclass(frozen=True)
class ServiceConfig:
    """A run against one service and one store."""

    store: str
    """URL of a folder or prefix for this run alone."""
    seed: int = 1
    lease_s: float = 6
    poll_interval_s: float = 0.3
    checkpoint_interval_s: float = 2
    reconcile_interval_s: float = 0.5
    workers: int = 2
    """Two, so that one is left when the other is killed."""
    cpus: int = 2
    subjects: int = 6
    """Subjects with reference tokens, from which each job's items are drawn."""
    items: int = 4
    steps: int = 40
    recovery_margin_s: float = 10
    """Beyond a lease, the time in which interrupted items must be claimed again."""
    completion_timeout_s: float = 240
    """The time in which the job must end and all processes be there again."""

    def service(self, folder: Path) -> LocalService:
        """Return the service, not yet started. Its models file is written into `folder`."""
        models = folder / "models.json"
        model = {
            "weights": "miniature",
            "recipe": "miniature",
            "slots": SLOTS,
            "gpus": 0,
            "min_workers": self.workers,
            "max_workers": self.workers,
        }
        models.write_text(json.dumps({POOL: model}))
        return LocalService(
            LocalServiceSettings(
                store=self.store,
                port=free_port(),
                models=models,
                cpus=self.cpus,
                lease_s=self.lease_s,
                poll_interval_s=self.poll_interval_s,
                checkpoint_interval_s=self.checkpoint_interval_s,
                reconcile_interval_s=self.reconcile_interval_s,
                engines=False,  # Training jobs do not need them.
            )
        )

    def round(self, name: str) -> RoundConfig:
        """Return a round's configuration for the checks of the ledger."""
        return RoundConfig(
            url=self.store,
            seed=name,
            tenant=f"t-{name}",
            pool=POOL,
            lease_s=self.lease_s,
            poll_interval_s=self.poll_interval_s,
            completion_timeout_s=self.completion_timeout_s,
        )
