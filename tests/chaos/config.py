"""The configuration of a round, which its processes read from a file in its folder."""

import dataclasses
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from chaos.watched_store import WatchedStore
from services.ledger.ledger import Ledger
from services.settings import LedgerSettings
from services.storage.interface import Store
from services.storage.open import open_store

_S3_DEADLINE_S = "10"
"""Limit of one call to S3 unless the environment says otherwise: a round is short."""


@dataclass(frozen=True)
class RoundConfig:
    """One round: its store, its processes and its faults."""

    url: str
    """A store for this round alone."""
    seed: str
    """Decides jobs, operations and faults; the timing of each is up to the host."""
    tenant: str = dataclasses.field(default_factory=lambda: f"t-{secrets.token_hex(4)}")
    pool: str = "chaos"
    lease_s: float = 3
    poll_interval_s: float = 0.2
    fault_duration_s: float = 12
    """Time in which faults are injected."""
    completion_timeout_s: float = 120
    """The time without faults in which all jobs must end."""
    workers: int = 4
    slots: int = 3
    """Attempts that a worker runs at a time."""
    supervisors: int = 2
    clients: int = 2
    request_interval_s: float = 0.4
    """The mean time between two operations of a client."""
    pause_probability: float = 0.01
    """The probability of SIGSTOP right before a write that decides something."""
    fault_interval_s: float = 0.6
    """The mean time between two faults."""

    def save(self, folder: Path) -> None:
        """Write the file that the round's processes read."""
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> "RoundConfig":
        """Read the file that `save` wrote."""
        return cls(**json.loads((folder / "config.json").read_text()))

    @property
    def settings(self) -> LedgerSettings:
        return LedgerSettings(lease_s=self.lease_s, poll_interval_s=self.poll_interval_s)

    def open(self, pause_probability: float = 0.0) -> Ledger:
        """Open the round's ledger over a watched store."""
        os.environ.setdefault("DTI_S3_DEADLINE_S", _S3_DEADLINE_S)
        store = WatchedStore(open_store(self.url), pause_probability)
        return Ledger.open(cast(Store, store), self.settings)
