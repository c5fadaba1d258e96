"""How attempts of a worker end: each is told to whoever counts, and written by the outbox.

What is said of a learned token in its result, beside its bytes.
"""

from functools import partial
from math import degrees

from pydantic import JsonValue

from dti_engine.artifacts.artifact import Artifact
from dti_engine.training.metrics import StepMetrics
from services.ledger import aliases
from services.ledger.attempts import Attempt
from services.ledger.ids import token_id
from services.ledger.outbox import Outbox
from services.storage.interface import Store
from services.training.batch import WorkerSlot
from services.training.metrics import Events


def report(seat: WorkerSlot, artifact: Artifact, last: StepMetrics) -> dict[str, JsonValue]:
    """Few words and figures, for lists; all else stands in the token's own manifest."""
    training = artifact.manifest.training
    assert training
    said: dict[str, JsonValue] = {
        "placeholder": artifact.manifest.placeholder,
        "initializer": training.initializer,
        "model": seat.prepared.order.model,
        "fingerprint": artifact.manifest.model_fingerprint,
        "engine_version": artifact.manifest.engine_version,
        "steps": training.steps_done,
        "resumed_at": seat.resumed_at,
        "stop_reason": training.stop_reason,
        "loss": _rounded(last.loss),
        "fixed_loss": _rounded(last.fixed_loss),
        "prior_angle_deg": _rounded(degrees(last.prior_angle_rad)),
        "gpu_seconds": round(seat.device_seconds, 3),
        "images": len(training.images),
        "warnings": list(seat.warnings[:20]),
    }
    if quality := training.quality:
        said["flags"] = list(quality.flags)
        if quality.subject_score is not None and quality.prompt_score is not None:
            said["subject_score"] = _rounded(quality.subject_score)
            said["prompt_score"] = _rounded(quality.prompt_score)
    return said


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


class ResultCommitter:
    """For the thread that owns the device."""

    def __init__(self, store: Store, outbox: Outbox, events: Events) -> None:
        self._store, self._outbox, self._events = store, outbox, events

    def commit(self, seat: WorkerSlot, artifact: Artifact, last: StepMetrics) -> None:
        """It has learned its token."""
        attempt, payload = seat.attempt, artifact.to_bytes()
        said = report(seat, artifact, last)
        keys, place = attempt.keys, attempt.item_ref
        token = token_id(keys.job, place.round, place.index)

        def write() -> None:
            # Before the token is there: one that nobody finds by its alias would be lost to many.
            aliases.add(self._store, keys.tenant, attempt.item.name, token)
            attempt.succeed(payload, said)
            self._events.ended(attempt, "succeeded")

        self._outbox.send(attempt, write)

    def refuse(self, attempt: Attempt, error: Exception) -> None:
        """Nothing can ever be learned from what was given."""
        self._events.refused(attempt, error)
        self._outbox.send(attempt, partial(attempt.fail, str(error), retry=False))

    def fail(self, attempt: Attempt, error: Exception, *, retry: bool) -> None:
        """It went wrong. retry: it may go better."""
        self._events.ended(attempt, "failed", str(error))
        self._outbox.send(attempt, partial(attempt.fail, str(error), retry=retry))

    def release(self, attempt: Attempt, reason: str) -> None:
        """Others go on with it, unharmed."""
        self._events.ended(attempt, "released", reason)
        self._outbox.send(attempt, partial(attempt.release, reason))

    def let_go(self, attempt: Attempt, error: Exception, reason: str = "") -> None:
        """After what is nobody's fault, unless nobody else was there."""
        if attempt.isolated:
            self.fail(attempt, error, retry=True)
        else:
            self.release(attempt, reason or str(error))

    def abandon(self, attempt: Attempt) -> None:
        """It was told to stop."""
        self._events.ended(attempt, "stopped", attempt.stop_reason or "")
        self._outbox.send(attempt, attempt.abandon)
