"""Commits of results: attempts that have ended are counted, and written by the outbox."""

from collections.abc import Callable, Sequence
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
from services.training.batch import FinishedSlot, WorkerSlot
from services.training.metrics import WorkerMetrics
from services.training.validation import ValidationRunner

_MAX_WARNINGS = 20


class ResultCommitter:
    """Ends attempts. Its methods belong to the thread that owns the device, and do not block."""

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        validation: ValidationRunner,
        metrics: WorkerMetrics,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """on_progress: called whenever the device has made progress."""
        self._store, self._outbox, self._metrics = store, outbox, metrics
        self._validation, self._on_progress = validation, on_progress

    def finish(self, finished: Sequence[FinishedSlot]) -> None:
        """End the attempts of subjects that have left their slots; validate new tokens first."""
        learned: list[tuple[WorkerSlot, Artifact]] = []
        metrics: list[StepMetrics] = []
        for each in finished:
            attempt = each.slot.attempt
            if attempt.stop_reason:
                self.abandon(attempt)
            elif each.artifact is None or each.metrics is None:
                error = each.error or RuntimeError("training ended without a result")
                self.fail(attempt, error, retry=each.may_retry)
            else:
                step = each.metrics.step
                attempt.report_progress({"phase": "validating", "step": step, "steps": step})
                learned.append((each.slot, each.artifact))
                metrics.append(each.metrics)
        if learned:
            validated = self._validation.validate(learned, on_step=self._on_progress)
            for (slot, _), artifact, last in zip(learned, validated, metrics, strict=True):
                self._commit(slot, artifact, last)

    def _commit(self, slot: WorkerSlot, artifact: Artifact, last: StepMetrics) -> None:
        attempt, payload = slot.attempt, artifact.to_bytes()
        summary = summarize(slot, artifact, last)
        keys, place = attempt.keys, attempt.item_ref
        token = token_id(keys.job, place.round, place.index)

        def write() -> None:
            # The alias goes first: a token that no alias leads to would be lost to many clients.
            aliases.add(self._store, keys.tenant, attempt.item.name, token)
            attempt.succeed(payload, summary)
            self._metrics.attempt_ended(attempt, "succeeded")

        self._outbox.send(attempt, write)

    def reject(self, attempt: Attempt, error: Exception) -> None:
        """Fail an attempt for good: nothing can ever be learned from what was given."""
        self._metrics.subject_rejected(attempt, error)
        self._outbox.send(attempt, partial(attempt.fail, str(error), retry=False))

    def fail(self, attempt: Attempt, error: Exception, *, retry: bool) -> None:
        """Fail an attempt; with `retry`, another may follow."""
        self._metrics.attempt_ended(attempt, "failed", str(error))
        self._outbox.send(attempt, partial(attempt.fail, str(error), retry=retry))

    def release(self, attempt: Attempt, reason: str) -> None:
        """Give an attempt back, so that another worker resumes it; it does not count."""
        self._metrics.attempt_ended(attempt, "released", reason)
        self._outbox.send(attempt, partial(attempt.release, reason))

    def release_or_fail(self, attempt: Attempt, error: Exception, reason: str = "") -> None:
        """Give an attempt back after an error that belongs to no subject.

        An isolated attempt fails: its subject was alone, so the error is its own.
        """
        if attempt.isolated:
            self.fail(attempt, error, retry=True)
        else:
            self.release(attempt, reason or str(error))

    def abandon(self, attempt: Attempt) -> None:
        """End an attempt that has a stop reason."""
        self._metrics.attempt_ended(attempt, "stopped", attempt.stop_reason or "")
        self._outbox.send(attempt, attempt.abandon)


def summarize(slot: WorkerSlot, artifact: Artifact, last: StepMetrics) -> dict[str, JsonValue]:
    """Return what lists show of a token; everything else stands in the token's own manifest."""
    training = artifact.manifest.training
    assert training
    summary: dict[str, JsonValue] = {
        "placeholder": artifact.manifest.placeholder,
        "initializer": training.initializer,
        "model": slot.loaded.job.model,
        "fingerprint": artifact.manifest.model_fingerprint,
        "engine_version": artifact.manifest.engine_version,
        "steps": training.steps_done,
        "resumed_at": slot.resumed_at,
        "stop_reason": training.stop_reason,
        "loss": _rounded(last.loss),
        "fixed_loss": _rounded(last.fixed_loss),
        "prior_angle_deg": _rounded(degrees(last.prior_angle_rad)),
        "gpu_seconds": round(slot.device_s, 3),
        "images": len(training.images),
        "warnings": list(slot.warnings[:_MAX_WARNINGS]),
    }
    if quality := training.quality:
        summary["flags"] = list(quality.flags)
        if quality.subject_score is not None and quality.prompt_score is not None:
            summary["subject_score"] = _rounded(quality.subject_score)
            summary["prompt_score"] = _rounded(quality.prompt_score)
    return summary


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
