"""What all processes of a round are told, in a file of its folder."""

import dataclasses
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from chaos.processes.watched_store import Watched
from services.ledger.ledger import Ledger
from services.settings import LedgerSettings
from services.storage.interface import Store
from services.storage.open import open_store

_PATIENCE = "10"
"""Seconds that a call to S3 may take, if the environment does not say: a round is short."""


@dataclass(frozen=True)
class Plan:
    """One round."""

    url: str
    """Of a store of its own."""
    seed: str
    """Decides jobs, requests and faults; when each happens is up to the host."""
    tenant: str = dataclasses.field(default_factory=lambda: f"t-{secrets.token_hex(4)}")
    pool: str = "kills"
    lease: float = 3
    look: float = 0.2
    seconds: float = 12
    """With faults."""
    limit: float = 120
    """Seconds without faults after which all jobs must have ended."""
    workers: int = 4
    slots: int = 3
    """Attempts that a worker has in hand."""
    supervisors: int = 2
    clients: int = 2
    gap: float = 0.4
    """Seconds between two requests of a client, on average."""
    nap: float = 0.01
    """The chance to be stopped right before a write that decides something."""
    fault_pause: float = 0.6
    """Seconds between two faults, on average."""

    def save(self, folder: Path) -> None:
        (folder / "plan.json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> "Plan":
        return cls(**json.loads((folder / "plan.json").read_text()))

    @property
    def settings(self) -> LedgerSettings:
        return LedgerSettings(lease_s=self.lease, poll_interval_s=self.look)

    def open(self, nap: float = 0.0) -> Ledger:
        """The round's ledger, over a watched store."""
        os.environ.setdefault("DTI_S3_DEADLINE_S", _PATIENCE)
        return Ledger.open(cast(Store, Watched(open_store(self.url), nap)), self.settings)
