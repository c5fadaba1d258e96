"""What a run is told: how the service is set up, and what its rounds are made of."""

import json
from dataclasses import dataclass
from pathlib import Path

from chaos.processes.generator import Plan as RoundPlan
from services.local.service import LocalService, LocalServiceSettings, free_port

POOL = "miniature"
SLOTS = 4
"""Of a worker: as many as a job has items, so that one that is left has room for all."""


@dataclass(frozen=True)
class Course:
    """Times in seconds."""

    store: str
    """URL of a folder or prefix of its own."""
    seed: int = 1
    lease: float = 6
    look: float = 0.3
    checkpoint: float = 2
    turn: float = 0.5
    workers: int = 2
    """Two, so that one is left when the other is killed."""
    cpus: int = 2
    subjects: int = 6
    """That are trained undisturbed."""
    items: int = 4
    """Of a job, chosen from these."""
    steps: int = 40
    margin: float = 10
    """Beyond a lease, within which what was in hand has to be in hand again."""
    limit: float = 240
    """Until all has to be as it was before: the job ended, everybody there."""

    def service(self, folder: Path) -> LocalService:
        """The service, not started. The offer is written into `folder`."""
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
                lease_s=self.lease,
                poll_interval_s=self.look,
                checkpoint_interval_s=self.checkpoint,
                reconcile_interval_s=self.turn,
                engines=False,  # it has no part in a job
            )
        )

    def round(self, name: str) -> RoundPlan:
        """A round as the checks of `kills` know it."""
        return RoundPlan(
            url=self.store,
            seed=name,
            tenant=f"t-{name}",
            pool=POOL,
            lease_s=self.lease,
            poll_interval_s=self.look,
            limit=self.limit,
        )
