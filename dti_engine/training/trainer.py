"""The trainer: one optimizer step of many subjects over one frozen model, in one packed batch.

A slot is a fixed place in the batch. A subject holds it until its budget of steps is done, early
stopping applies, or it fails; then the next subject takes the slot.

- What a subject sees depends on its seed and its own step alone (`batch.draw_samples`).
- The loss is the *sum* over subjects of each subject's *mean*, so each gradient, and the weight of
  the prior relative to it, is that of training alone. Rows never mix (`optim.embeddings`).
- An empty slot is filled with blank samples, which reference no learned row: the shape of the batch
  is constant, so the model can be compiled once.
- A subject that fails ends with an error of its own and does not affect its neighbours.

The trainer knows neither the model's family, nor its objective, text encoders or training method.
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
from dti_engine.training.result import TrainingResult, build_artifact, result_if_ended
from dti_engine.training.schedules import learning_rate
from dti_engine.training.slot import TrainingSlot, initial_token, prepare

OnStep: TypeAlias = Callable[[list[StepMetrics]], None]
OnAdded: TypeAlias = Callable[[int, TrainingSlot], None]
OnSnapshot: TypeAlias = Callable[[Subject, Artifact], None]


class Trainer:
    """K slots over one model; all its state is in `slots` (None: free) and `optimizers`.

    `loop.train` drives it; a caller with a queue of its own drives it directly.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: TrainConfig,
        *,
        num_slots: int,
        max_vectors: int = 8,
        flush_every: int | None = None,
        on_added: OnAdded = lambda index, slot: None,
        on_step: OnStep = lambda metrics: None,
        snapshot_steps: Container[int] = (),
        on_snapshot: OnSnapshot = lambda subject, artifact: None,
    ) -> None:
        """Create `num_slots` empty slots, each with room for `max_vectors` vectors per encoder.

        on_added gets the index of a slot and the slot, right after a subject was added; it must not
        change either.

        on_step gets the metrics of `flush_every` steps at once, slot by slot; failures are noticed
        then. Between flushes nothing is read from the device, since a read waits for it: hence the
        default of 1 on a CPU and 10 elsewhere.

        on_snapshot gets a subject, without its images, and an artifact of what it has learned,
        after each of its steps in `snapshot_steps` except its last.

        Raises:
            ConfigurationError: A number is below 1, or the resolution does not fit the model.
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
        # One table per encoder with `max_vectors` rows for every slot, used or not. The size of the
        # table belongs to the shape of the batch, and a slot's rows never move, so a subject comes
        # and goes without touching the state of its neighbours.
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
        # Made once: the samples of an empty slot are the same in every step.
        self._blank = blank_samples(backbone, config)
        # On the device, beside the losses of the steps: reading a loss at each evaluation would
        # wait for all work that was submitted before it.
        self._fixed_losses = torch.zeros(num_slots, device=backbone.device)
        self._unflushed: list[Tensor] = []  # one (K, values) per step, see `tabulate`

    def add(self, subject: Subject, checkpoint: Checkpoint | None = None) -> None:
        """Put a subject into a free slot, of which there must be one, and resume its checkpoint.

        A resumed subject gets its former slot if that is free. In the same slot of the same shape
        (`num_slots`, `max_vectors`) its result is bit for bit that of an uninterrupted run, with
        any neighbours. In another slot or shape its draws are the same, and the results agree to
        rounding, as they do between packings.

        Of the subject's images only latents and digests are kept.

        Raises:
            SubjectError: It cannot be trained, or not in this batch; the trainer is unchanged.
            CheckpointError: The checkpoint is of another training; the trainer is unchanged.
        """
        # The first free slot, not just any: the slot decides how sums round, so it must depend on
        # the order of events alone.
        index, backbone, config = self.slots.index(None), self._backbone, self._config
        if subject.config and (reason := subject.config.incompatibility_with(config)):
            raise SubjectError(
                f"subject {subject.id!r} cannot share a batch with the others: {reason}. Train it "
                "in a run of its own, or give it the values of this one"
            )
        if checkpoint and self._is_free(checkpoint.header.slot):
            index = checkpoint.header.slot
        token = initial_token(
            subject,
            backbone.text_encoders,
            self._magnitudes,
            subject.config or config,
            self._max_vectors,
        )
        first = index * self._max_vectors
        rows = {name: slice(first, first + token.num_vectors(name)) for name in self.optimizers}
        # All that can refuse the subject comes before the first change of the trainer's state.
        slot = prepare(subject, rows, backbone, config)
        if checkpoint:
            checkpoint.require_match(slot, self.optimizers)
        for name, optimizer in self.optimizers.items():
            optimizer.add_rows(rows[name], token.embeddings[name], slot.config)
        try:
            if checkpoint:
                checkpoint.restore(slot, self.optimizers)
                # Until its next evaluation a subject reports its last one again. Without this line,
                # that would be the last one of the slot's previous subject.
                self._fixed_losses[index] = slot.metrics[-1].fixed_loss
            else:
                self._evaluate_fixed_batch(index, slot)
                # This waits for the device, but only once per subject.
                slot.first_fixed_loss = float(self._fixed_losses[index])
        except BaseException:
            # The slot stays free, so its rows must not stay active. If the next subject here has
            # fewer vectors, a row left over would count as its own, and the zero gradient of that
            # row would end it as failed. Ctrl-C is no exception: a caller may catch it and go on.
            for name, optimizer in self.optimizers.items():
                optimizer.remove_rows(rows[name])
            raise
        self.slots[index] = slot
        self._on_added(index, slot)

    def checkpoint(self, index: int) -> Checkpoint:
        """Return the checkpoint of a slot that has done at least a step, all of them flushed."""
        slot = self.slots[index]
        assert slot is not None
        assert slot.step == len(slot.metrics) > 0, "call `flush` first"
        return Checkpoint.of(slot, index, self.optimizers)

    def step(self) -> list[TrainingResult]:
        """Take one step of every subject in one batch; return those that ended."""
        optimizers = list(self.optimizers.values())
        batch = TrainingBatch.concat(
            [slot.next_batch() if slot else self._blank for slot in self.slots]
        )
        losses = self._losses(batch, {n: each.embeddings() for n, each in self.optimizers.items()})
        # The mean over a subject's samples, and below the sum over subjects. A mean over subjects
        # would divide each gradient by the number of slots and so make kappa, which is added to the
        # gradient, count for more in a larger packing. An empty slot is part of the sum, but its
        # samples use no row, so it adds nothing to any gradient.
        losses = losses.unflatten(0, (-1, self._config.batch_size)).mean(dim=1)  # (K,)
        # `grad`, not `backward`: nothing accumulates in `.grad`, so nothing has to be cleared.
        gradients = torch.autograd.grad(losses.sum(), [each.parameter for each in optimizers])
        # Before every step: each subject is at a step of its own schedule.
        for slot in self._occupied():
            for name, optimizer in self.optimizers.items():
                optimizer.set_learning_rate(slot.rows[name], learning_rate(slot.config, slot.step))
        row_metrics = [
            optimizer.step(gradient)
            for optimizer, gradient in zip(optimizers, gradients, strict=True)
        ]

        for index, slot in enumerate(self.slots):
            if slot is not None:
                slot.step += 1
                slot.num_unflushed += 1
                # After the step, so that the loss is that of what the token would be now. A step at
                # which the subject may end is evaluated too: the manifest reports the loss of its
                # last step.
                if slot.step % slot.config.eval_every == 0 or slot.is_sync_step(
                    self._snapshot_steps
                ):
                    self._evaluate_fixed_batch(index, slot)
        self._unflushed.append(
            tabulate(losses.detach(), self._fixed_losses, optimizers, row_metrics)
        )
        # A subject that may end at this step cannot wait for the next flush: until then it would be
        # trained beyond its budget.
        is_sync = any(slot.is_sync_step(self._snapshot_steps) for slot in self._occupied())
        return self.flush() if is_sync or len(self._unflushed) == self._flush_every else []

    def step_isolated(self, index: int) -> list[TrainingResult]:
        """Take one step of one slot as if the others were empty, to find whose step fails.

        The other slots are unchanged. `flush` must come first.

        Raises:
            Exception: Whatever the step raises; remove the subject then.
        """
        assert not self._unflushed, "call `flush` first"
        all_slots, slot = list(self.slots), self.slots[index]
        assert slot is not None
        active = {name: optimizer.active.clone() for name, optimizer in self.optimizers.items()}
        self.slots[:] = [each if i == index else None for i, each in enumerate(all_slots)]
        for name, optimizer in self.optimizers.items():
            span = slot.rows[name]
            # The mask alone, since `remove_rows` and `add_rows` would reset the neighbours' state.
            optimizer.active[: span.start] = optimizer.active[span.stop :] = False
        try:
            return [*self.step(), *self.flush()]
        finally:
            # A step that fails after its metrics were tabulated leaves them behind, and the next
            # isolated step, of another slot, must not find them.
            self._unflushed.clear()
            # None, if the step has ended the subject.
            all_slots[index] = self.slots[index]
            self.slots[:] = all_slots
            # The step may have ended this subject, so its own rows keep the state they have now.
            for name, optimizer in self.optimizers.items():
                span = slot.rows[name]
                active[name][span] = optimizer.active[span]
                optimizer.active.copy_(active[name])

    def flush(self) -> list[TrainingResult]:
        """Read and report the steps since the last flush; return the subjects that ended.

        `step` calls it when due, and returns the same.
        """
        if not self._unflushed:
            return []
        values = torch.stack(self._unflushed).tolist()  # [steps][K][values], in one device read
        # Now, since a callback below may raise: the next flush must not record these steps again.
        self._unflushed.clear()
        learned = {name: optimizer.learned() for name, optimizer in self.optimizers.items()}
        metrics, results = list[StepMetrics](), list[TrainingResult]()
        for index, slot in enumerate(self.slots):
            if slot is not None and slot.num_unflushed:
                metrics += slot.record([of_slots[index] for of_slots in values])
                if result := result_if_ended(slot, learned, self._backbone):
                    results.append(result)
                    self.remove(index)
                elif slot.step in self._snapshot_steps:
                    snapshot = build_artifact(slot, learned, self._backbone, stop_reason="kept")
                    self._on_snapshot(slot.subject, snapshot)
        # Before the results are returned, so that a caller sees a subject's last step first.
        self._on_step(metrics)
        return results

    def remove(self, index: int) -> None:
        """Free a slot and discard what its subject has learned; a free slot stays free."""
        if slot := self.slots[index]:
            for name, optimizer in self.optimizers.items():
                # The values stay where they are: `add_rows` sets all of a row's state for the next
                # subject.
                optimizer.remove_rows(slot.rows[name])
            self.slots[index] = None

    @torch.no_grad()
    def _evaluate_fixed_batch(self, index: int, slot: TrainingSlot) -> None:
        """Compute a subject's loss on its fixed batch, without neighbours that could change it."""
        # What the token would keep, which is the moving average if there is one: early stopping has
        # to judge the token, not the point that training has reached.
        learned = {name: optimizer.learned() for name, optimizer in self.optimizers.items()}
        self._fixed_losses[index] = self._losses(slot.fixed_batch, learned).mean()

    def _losses(self, batch: TrainingBatch, rows: dict[str, Tensor]) -> Tensor:
        """Return the loss of each sample, (B,)."""
        conditioning = self._backbone.encode_prompts(batch.prompts, rows, batch.micro_conditioning)
        return denoising_loss(
            self._backbone, batch.latents, batch.noise, batch.u, conditioning, batch.weights
        )

    def _occupied(self) -> list[TrainingSlot]:
        return [slot for slot in self.slots if slot is not None]

    def _is_free(self, index: int) -> bool:
        return index < len(self.slots) and self.slots[index] is None
