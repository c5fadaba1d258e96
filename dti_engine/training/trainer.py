"""Many subjects over one frozen model: one packed batch of fixed shape per step.

A slot is a place in the batch. A subject holds it until it has had all its steps, has converged or
has failed; then the next subject takes it.

- What a subject sees depends on its seed and its own step alone (`draws`).
- The loss is the *sum* over subjects of each subject's *mean*, so a gradient, and the weight of the
  prior beside it, is as if the subject were alone. Rows never mix (`learners`).
- An empty slot carries blank samples, which name no learned row.
- A subject that fails ends by name, and its neighbours do not notice.

Knows neither the family of the model, nor its objective, its text encoders, or the method.
"""

from collections.abc import Callable, Container
from typing import TypeAlias

import torch
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.objectives import denoising_loss
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError, SubjectError
from dti_engine.optim.embeddings import EmbeddingOptimizer, new_embedding_optimizer
from dti_engine.subject import Subject
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.training.batch import TrainingBatch, blank_samples
from dti_engine.training.checkpoint import Checkpoint
from dti_engine.training.metrics import StepMetrics, tabulate
from dti_engine.training.result import TrainingResult, artifact, outcome
from dti_engine.training.schedules import learning_rate
from dti_engine.training.slot import TrainingSlot, initial_token, prepare

OnStep: TypeAlias = Callable[[list[StepMetrics]], None]
OnAdded: TypeAlias = Callable[[int, TrainingSlot], None]
OnSnapshot: TypeAlias = Callable[[Subject, Artifact], None]


class Trainer:
    """K slots over one model. `occupants` (None: a free slot) and `learners` are all its state.

    `trainer.train` is the loop over it; a caller with a queue of its own writes another.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: TrainConfig,
        *,
        num_slots: int,
        max_vectors: int = 8,
        flush_every: int | None = None,
        on_added: OnAdded = lambda slot, occupant: None,
        on_step: OnStep = lambda _: None,
        snapshot_steps: Container[int] = (),
        on_snapshot: OnSnapshot = lambda subject, artifact: None,
    ) -> None:
        """`max_vectors` is the room of a token in each encoder's table; a longer one is refused.

        `on_added` gets a slot and who has just been seated there; it must leave both as they are.

        `on_step` gets the metrics of `flush_every` steps at once, slot by slot, and failures are
        noticed then. In between nothing is read from the device, since a read waits for it: hence
        the default, 1 on a CPU and 10 elsewhere.

        `on_snapshot` gets what a subject has learned after each of `snapshot_steps`, its last step
        left out; the subject has no images any more.

        Raises: ConfigurationError if a number is below 1, or the resolution does not fit the model.
        """
        if flush_every is None:
            flush_every = 1 if backbone.device.type == "cpu" else 10
        if min(num_slots, max_vectors, flush_every) < 1:
            raise ConfigurationError(
                "num_slots, max_vectors and flush_every must be >= 1, "
                f"got {num_slots}, {max_vectors} and {flush_every}"
            )
        encoders = backbone.text_encoders
        self.slots: list[TrainingSlot | None] = [None] * num_slots
        self.optimizers: dict[str, EmbeddingOptimizer] = {
            name: new_embedding_optimizer(config, num_slots * max_vectors, encoder.vocabulary())
            for name, encoder in encoders.items()
        }
        self._backbone, self._config = backbone, config
        self._max_vectors, self._flush_every, self._on_step = max_vectors, flush_every, on_step
        self._on_added, self._snapshot_steps, self._on_snapshot = (
            on_added,
            snapshot_steps,
            on_snapshot,
        )
        self._magnitudes = {name: vocabulary_magnitude(each) for name, each in encoders.items()}
        self._blank = blank_samples(backbone, config)
        self._fixed_losses = torch.zeros(num_slots, device=backbone.device)
        self._unread: list[Tensor] = []  # per step (K, figures), see `tabulate`

    def add(self, subject: Subject, checkpoint: Checkpoint | None = None) -> None:
        """Put a subject into a free slot, of which there must be one; let it go on, if it may.

        From a checkpoint it goes on in the slot it had if that is free. In the same slot of the
        same shape (`num_slots`, `max_vectors`) its result is bit for bit as if it had never
        stopped, whatever its neighbours. In another slot or shape its draws are the same, and
        the rest as between packings: alike to rounding.

        Of the subject's images nothing is kept but their latents and digests.

        Raises: SubjectError if it cannot be trained, or not in this batch; CheckpointError if the
            checkpoint is of another training; nothing has changed then.
        """
        slot, backbone, config = self.slots.index(None), self._backbone, self._config
        if subject.config and (reason := subject.config.incompatibility_with(config)):
            raise SubjectError(
                f"subject {subject.id!r} cannot share a batch with the others: {reason}. Train it "
                "in a run of its own, or give it the values of this one"
            )
        if checkpoint and checkpoint.header.slot in self._free_slots():
            slot = checkpoint.header.slot
        token = initial_token(
            subject,
            backbone.text_encoders,
            self._magnitudes,
            subject.config or config,
            self._max_vectors,
        )
        first = slot * self._max_vectors
        rows = {name: slice(first, first + token.num_vectors(name)) for name in self.optimizers}
        occupant = prepare(subject, rows, backbone, config)
        if checkpoint:
            checkpoint.require_fit(occupant, self.optimizers)
        for name, learner in self.optimizers.items():
            learner.add_rows(rows[name], token.embeddings[name], occupant.config)
        try:
            if checkpoint:
                checkpoint.restore(occupant, self.optimizers)
                self._fixed_losses[slot] = occupant.metrics[-1].fixed_loss
            else:
                self._evaluate_fixed_batch(slot, occupant)
                occupant.first_fixed_loss = float(self._fixed_losses[slot])
        except BaseException:
            # Rows that learn without an occupant would fail whoever comes next.
            for name, learner in self.optimizers.items():
                learner.remove_rows(rows[name])
            raise
        self.slots[slot] = occupant
        self._on_added(slot, occupant)

    def checkpoint(self, slot: int) -> Checkpoint:
        """Its subject as it is, to go on from. It has done a step, and all of them are read."""
        occupant = self.slots[slot]
        assert occupant is not None
        assert occupant.step == len(occupant.metrics) > 0, "`flush` comes first"
        return Checkpoint.of(occupant, slot, self.optimizers)

    def step(self) -> list[TrainingResult]:
        """One step of every occupant, in one batch; returns those that ended, their slots free."""
        learners = list(self.optimizers.values())
        batch = TrainingBatch.concat(
            [each.samples() if each else self._blank for each in self.slots]
        )
        losses = self._losses(batch, {n: each.embeddings() for n, each in self.optimizers.items()})
        losses = losses.unflatten(0, (-1, self._config.batch_size)).mean(dim=1)  # (K,)
        gradients = torch.autograd.grad(losses.sum(), [each.parameter for each in learners])
        for each in self._occupied():
            for name, learner in self.optimizers.items():
                learner.set_learning_rate(each.rows[name], learning_rate(each.config, each.step))
        moved = [learner.step(each) for learner, each in zip(learners, gradients, strict=True)]

        for slot, each in enumerate(self.slots):
            if each is not None:
                each.step += 1
                each.num_unread += 1
                if each.step % each.config.eval_every == 0 or each.is_sync_step(
                    self._snapshot_steps
                ):
                    self._evaluate_fixed_batch(slot, each)
        self._unread.append(tabulate(losses.detach(), self._fixed_losses, learners, moved))
        is_due = any(each.is_sync_step(self._snapshot_steps) for each in self._occupied())
        return self.flush() if is_due or len(self._unread) == self._flush_every else []

    def step_isolated(self, slot: int) -> list[TrainingResult]:
        """One step of one occupant, as if the other slots were empty: to find out whose a step is
        that breaks. The others are left as they are. `flush` comes before.

        Raises: whatever its step does; vacate it then.
        """
        assert not self._unread, "`flush` comes first"
        everybody, occupant = list(self.slots), self.slots[slot]
        assert occupant is not None
        seated = {name: learner.active.clone() for name, learner in self.optimizers.items()}
        self.slots[:] = [each if i == slot else None for i, each in enumerate(everybody)]
        for name, learner in self.optimizers.items():
            span = occupant.rows[name]
            learner.active[: span.start] = learner.active[span.stop :] = False
        try:
            return [*self.step(), *self.flush()]
        finally:
            self._unread.clear()
            everybody[slot] = self.slots[slot]
            self.slots[:] = everybody
            for name, learner in self.optimizers.items():
                span = occupant.rows[name]
                seated[name][span] = learner.active[span]
                learner.active.copy_(seated[name])

    def flush(self) -> list[TrainingResult]:
        """Read and report the steps since the last time; `step` calls it, and returns the same."""
        if not self._unread:
            return []
        figures = torch.stack(self._unread).tolist()  # [steps][K][figures]
        self._unread.clear()
        learned = self._learned()
        metrics, outcomes = list[StepMetrics](), list[TrainingResult]()
        for slot, occupant in enumerate(self.slots):
            if occupant is not None and occupant.num_unread:
                metrics += occupant.read([of_slots[slot] for of_slots in figures])
                if ended := outcome(occupant, learned, self._backbone):
                    outcomes.append(ended)
                    self.remove(slot)
                elif occupant.step in self._snapshot_steps:
                    kept = artifact(occupant, learned, self._backbone, stop_reason="kept")
                    self._on_snapshot(occupant.subject, kept)
        self._on_step(metrics)
        return outcomes

    def remove(self, slot: int) -> None:
        """Free a slot, whatever its subject has learned."""
        if occupant := self.slots[slot]:
            for name, learner in self.optimizers.items():
                learner.remove_rows(occupant.rows[name])
            self.slots[slot] = None

    @torch.no_grad()
    def _evaluate_fixed_batch(self, slot: int, occupant: TrainingSlot) -> None:
        """Take the loss on its fixed batch, alone: then neighbours change nothing of it."""
        self._fixed_losses[slot] = self._losses(occupant.fixed_batch, self._learned()).mean()

    def _losses(self, batch: TrainingBatch, rows: dict[str, Tensor]) -> Tensor:
        """(B,), one per sample."""
        conditioning = self._backbone.encode_prompts(batch.prompts, rows, batch.micro_conditioning)
        return denoising_loss(
            self._backbone, batch.latents, batch.noise, batch.u, conditioning, batch.weights
        )

    def _learned(self) -> dict[str, Tensor]:
        return {name: learner.learned() for name, learner in self.optimizers.items()}

    def _occupied(self) -> list[TrainingSlot]:
        return [each for each in self.slots if each is not None]

    def _free_slots(self) -> list[int]:
        return [slot for slot, each in enumerate(self.slots) if each is None]
