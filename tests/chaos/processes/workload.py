"""What a worker has in hand, and how it works at it: a step of each at a time."""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from chaos.processes.generator import Plan
from chaos.processes.items import POISON_STEP, fails
from chaos.processes.lines import Log
from services.errors import LeaseLostError, SupersededError, UnavailableError
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.ledger.worker import WorkerSession


@dataclass(eq=False)
class Piece:
    """An attempt, and how far it is."""

    attempt: Attempt
    step: int = 0
    payload: bytes = b""
    """The same at every call of `succeed`, once it is made."""
    names: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        place = self.attempt.item_ref
        self.names = {
            "job": self.attempt.keys.job,
            "round": place.round,
            "index": place.index,
            "number": self.attempt.number,
            "worker": self.attempt.lease.worker,
        }

    def write(self, **more: Any) -> bytes:
        """Bytes that say who wrote them; no two are the same."""
        names = self.names | {"tenant": self.attempt.keys.tenant, "once": secrets.token_hex(8)}
        return json.dumps(names | more).encode()

    def make(self) -> bytes:
        self.payload = self.payload or self.write()
        return self.payload


class Bench:
    """Of one life of a worker."""

    def __init__(self, worker: WorkerSession, ledger: Ledger, plan: Plan, log: Log) -> None:
        self._worker = worker
        self._ledger = ledger
        self._plan = plan
        self._log = log
        self._pieces: list[Piece] = []
        self._claim_at = 0.0

    def turn(self) -> None:
        """Claim what there is room for, and do a step of each attempt in hand."""
        if len(self._pieces) < self._plan.slots and time.monotonic() >= self._claim_at:
            self._claim()
        if not self._pieces:
            time.sleep(self._plan.look / 4)
        for piece in list(self._pieces):
            if not self._step(piece):
                self._pieces.remove(piece)

    def give_back(self) -> None:
        """All that is in hand, unharmed."""
        while self._pieces:
            piece = self._pieces[-1]
            piece.attempt.release("its worker ends")
            self._log.say("released", **piece.names)
            self._pieces.pop()

    def _claim(self) -> None:
        asked = time.monotonic()
        attempts: list[Attempt] = []
        with contextlib.suppress(UnavailableError):
            attempts = self._worker.claim(self._plan.slots)
        if not attempts:
            self._claim_at = time.monotonic() + self._plan.look / 2
        for attempt in attempts:
            piece, resume = Piece(attempt), attempt.resume_from
            key = attempt.keys.attempt(attempt.item_ref, attempt.number)
            self._log.say(
                "start",
                **piece.names,
                asked=asked,
                claimed=getattr(self._ledger.store, "claims", {}).get(key, asked),
                alone=attempt.isolated,
                resume=resume.step if resume else 0,
                of=json.loads(resume.payload) if resume else None,
            )
            piece.step = resume.step if resume else 0
            self._pieces.append(piece)

    def _step(self, piece: Piece) -> bool:
        """Whether to go on with it."""
        attempt, work = piece.attempt, piece.attempt.item.work
        if attempt.stop_reason:
            self._log.say("abandoned", **piece.names, stop=attempt.stop_reason)
            with contextlib.suppress(UnavailableError):
                attempt.abandon()
            return False
        steps, every = int(str(work["steps"])), int(str(work["every"]))
        if piece.step < steps:
            time.sleep(float(str(attempt.shared["pause"])))
            piece.step += 1
        poisoned = work["script"] == "poison" and attempt.item_ref.round == 0
        if poisoned and piece.step >= POISON_STEP:
            self._log.say("poison", **piece.names)
            os.kill(os.getpid(), signal.SIGKILL)
        if piece.step >= steps:
            return self._end(piece)
        return piece.step % every > 0 or self._checkpoint(piece)

    def _checkpoint(self, piece: Piece) -> bool:
        piece.attempt.report_progress({"step": piece.step})
        try:
            piece.attempt.checkpoint(piece.step, piece.write(step=piece.step))
        except UnavailableError:
            return True
        except (LeaseLostError, SupersededError):
            self._log.say("refused", **piece.names)
            piece.attempt.abandon()
            return False
        self._log.say("checkpoint", **piece.names, step=piece.step)
        return True

    def _end(self, piece: Piece) -> bool:
        attempt = piece.attempt
        how = fails(str(attempt.item.work["script"]), attempt.item_ref.round, attempt.number)
        digest = ""
        try:
            if how:
                attempt.fail(f"it fails {how}", retry=how == "again")
            else:
                digest = hashlib.sha256(piece.make()).hexdigest()
                attempt.succeed(piece.make(), {"steps": piece.step})
        except UnavailableError:
            return True
        except SupersededError:
            self._log.say("superseded", **piece.names)
            return False
        self._log.say("ended", **piece.names, how=how or "succeeded", sha256=digest)
        return False
