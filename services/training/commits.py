"""Commits of results: new tokens are validated, and ends of attempts counted and written."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import degrees

from pydantic import JsonValue

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError
from dti_engine.quality.flags import with_flags
from dti_engine.quality.token_scorers import TokenScorer
from dti_engine.quality.validation import TokenValidator, ValidationCandidate
from dti_engine.training.metrics import StepMetrics
from services.contracts.jobs import ItemState
from services.errors import SupersededError
from services.ledger import aliases
from services.ledger.attempts import Attempt
from services.ledger.ids import token_id
from services.ledger.item_results import read_item_state
from services.ledger.outbox import Outbox
from services.storage.interface import Store
from services.training.batch import FinishedSlot, OutOfMemoryError, WorkerSlot, library_call
from services.training.metrics import WorkerMetrics

_MAX_WARNINGS = 20  # in the report of an item; the token's manifest has all of them


class ValidationRunner:
    """Validates the tokens of one worker, across its sessions."""

    def __init__(self, backbone: Backbone, scorer: TokenScorer | None) -> None:
        self._backbone, self._scorer = backbone, scorer
        self._validators: dict[int, TokenValidator] = {}
        """The validators by number of images; each caches the images of its prompts' words."""

    def validate(
        self,
        learned: Sequence[tuple[WorkerSlot, Artifact]],
        on_step: Callable[[], None] = lambda: None,
    ) -> list[Artifact]:
        """Return the artifacts with their quality in their manifests.

        A token that cannot be validated is returned as it is, and its slot gets a warning: it has
        been learned, and may be good all the same.
        """
        try:
            with library_call(DTIError):
                scored = self._score(learned, on_step)
                return [self._flag(slot, artifact) for slot, artifact in scored]
        except (DTIError, OutOfMemoryError) as error:
            # Any other error is a bug or a failed device, which is no token's fault.
            if len(learned) > 1:  # one token with which the model overflows, perhaps: which?
                return [self.validate([each], on_step)[0] for each in learned]
            slot, artifact = learned[0]
            slot.warnings.append(f"could not be validated: {error}")
            return [artifact]

    def _score(
        self, learned: Sequence[tuple[WorkerSlot, Artifact]], on_step: Callable[[], None]
    ) -> list[tuple[WorkerSlot, Artifact]]:
        scored = dict[int, Artifact]()
        for count in {slot.loaded.job.validation_images for slot, _ in learned} - {0}:
            group = [
                (i, *each)
                for i, each in enumerate(learned)
                if each[0].loaded.job.validation_images == count
            ]
            candidates = [
                ValidationCandidate(artifact, slot.loaded.references, slot.loaded.class_noun)
                for _, slot, artifact in group
            ]
            validations = self._validator(count).validate(candidates, on_step=on_step)
            for (i, _, artifact), validation in zip(group, validations, strict=True):
                manifest = artifact.manifest.with_origin(quality=validation.quality)
                scored[i] = replace(artifact, manifest=manifest)
        return [(slot, scored.get(i, artifact)) for i, (slot, artifact) in enumerate(learned)]

    def _flag(self, slot: WorkerSlot, artifact: Artifact) -> Artifact:
        if not slot.loaded.job.validation_images:
            return artifact
        # By itself: its neighbours are chance, and may be other tenants'.
        return with_flags({"": artifact}, self._backbone)[""]

    def _validator(self, count: int) -> TokenValidator:
        if count not in self._validators:
            self._validators[count] = TokenValidator(self._backbone, self._scorer, num_images=count)
        return self._validators[count]


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
            try:
                attempt.succeed(payload, summary)
            except SupersededError:
                # If the subject was erased, the entry above may have come after that.
                if read_item_state(attempt.ledger, keys, place) is ItemState.DELETED:
                    aliases.remove(self._store, keys.tenant, attempt.item.name, token)
                raise
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
