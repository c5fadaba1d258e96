"""The training loop: many subjects over one frozen model, one packed batch of fixed shape per step.

A slot is a place in the batch. A subject holds it until it has had all its steps, or fails; then
the next subject takes it.

- What a subject sees depends on its seed and its own step alone (`draws`).
- The loss is the *sum* over subjects of each subject's *mean*, so a gradient, and the weight of the
  prior beside it, is as if the subject were alone. Rows never mix (`learners`).
- An empty slot carries blank samples, which name no learned row.
- A subject that fails ends by name, and its neighbours do not notice.

Knows neither the family of the model, nor its objective, its text encoders, or the method.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from dti_engine import slots
from dti_engine.backbones.interface import Backbone
from dti_engine.checkpoints import Checkpoint
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError, SubjectError
from dti_engine.keepers import Keeper
from dti_engine.learners import Learner, new_learner
from dti_engine.objectives import denoising_loss
from dti_engine.outcomes import Outcome, outcome
from dti_engine.reports import SlotReport, tabulate
from dti_engine.samples import Samples, blank_samples
from dti_engine.slots import Occupant, Subject

__all__ = ["Outcome", "SlotReport", "Subject", "Trainer", "train"]

OnStep: TypeAlias = Callable[[list[SlotReport]], None]


def train(
    backbone: Backbone,
    subjects: Iterable[Subject],
    config: TrainConfig,
    *,
    num_slots: int,
    max_vectors: int = 8,
    report_every: int | None = None,
    on_step: OnStep = lambda _: None,
    keeper: Keeper | None = None,
) -> Iterator[Outcome]:
    """Train any number of subjects, `num_slots` at a time; yields outcomes in order of ending.

    Work is done as outcomes are taken, and what was taken survives whatever stops the rest. A
    subject is taken from `subjects` when a slot falls free, so an iterator may load pictures as it
    goes. One that cannot be trained is an outcome too, with its error. Options: see `Trainer`.

    With a keeper, subjects go on from the checkpoints that it has, are kept every so many of their
    steps, and all at the end of the step in which it is stopped; no more is yielded then. To take a
    finished subject's checkpoint away is up to the caller, once the artifact is safe.

    Raises: ConfigurationError, at once, as `Trainer`.
    """
    trainer = Trainer(
        backbone,
        config,
        num_slots=num_slots,
        max_vectors=max_vectors,
        report_every=report_every,
        on_step=on_step,
    )
    return _outcomes(trainer, iter(subjects), keeper)


def _outcomes(
    trainer: "Trainer", queue: Iterator[Subject], keeper: Keeper | None
) -> Iterator[Outcome]:
    is_stopping = False
    while not is_stopping:
        yield from _refill(trainer, queue, keeper)
        if not any(trainer.occupants):
            return
        # Asked once a round, or a stop between two questions would keep nobody.
        is_stopping = keeper is not None and keeper.is_stopped
        if not is_stopping:
            yield from trainer.step()
        if keeper:
            yield from _keep(trainer, keeper, everybody=is_stopping)


def _refill(
    trainer: "Trainer", queue: Iterator[Subject], keeper: Keeper | None
) -> Iterator[Outcome]:
    """Seat subjects while there is room; yields those that cannot be trained."""
    while None in trainer.occupants and not (keeper and keeper.is_stopped):
        if (subject := next(queue, None)) is None:
            return
        try:
            trainer.seat(subject, keeper.load(subject.id) if keeper else None)
        except SubjectError as error:
            yield Outcome(subject, error=error)


def _keep(trainer: "Trainer", keeper: Keeper, *, everybody: bool) -> Iterator[Outcome]:
    """Keep the subjects that are due; yields those of whom it turns out that they have failed."""
    steps = {slot: each.step for slot, each in enumerate(trainer.occupants) if each and each.step}
    due = [slot for slot, step in steps.items() if everybody or keeper.is_due(step)]
    if due:
        yield from trainer.collect()
    # In order of slots, so that a run that is killed half-way fills them alike when it goes on.
    for slot in due:
        if trainer.occupants[slot]:
            keeper.save(trainer.checkpoint(slot))


class Trainer:
    """K slots over one model. `occupants` (None: a free slot) and `learners` are all its state.

    `train` is the loop over it; a caller with a queue of its own writes another.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: TrainConfig,
        *,
        num_slots: int,
        max_vectors: int = 8,
        report_every: int | None = None,
        on_step: OnStep = lambda _: None,
    ) -> None:
        """`max_vectors` is the room of a token in each encoder's table; a longer one is refused.

        `on_step` gets the reports of `report_every` steps at once, slot by slot, and failures are
        noticed then. In between nothing is read from the device, since a read waits for it: hence
        the default, 1 on a CPU and 10 elsewhere.

        Raises: ConfigurationError if a number is below 1, or the resolution does not fit the model.
        """
        if report_every is None:
            report_every = 1 if backbone.device.type == "cpu" else 10
        if min(num_slots, max_vectors, report_every) < 1:
            raise ConfigurationError(
                "num_slots, max_vectors and report_every must be >= 1, "
                f"got {num_slots}, {max_vectors} and {report_every}"
            )
        encoders = backbone.text_encoders
        self.occupants: list[Occupant | None] = [None] * num_slots
        self.learners: dict[str, Learner] = {
            name: new_learner(config, num_slots * max_vectors, encoder.vocabulary())
            for name, encoder in encoders.items()
        }
        self._backbone, self._config = backbone, config
        self._max_vectors, self._report_every, self._on_step = max_vectors, report_every, on_step
        self._magnitudes = {name: slots.magnitude(config, each) for name, each in encoders.items()}
        self._blank = blank_samples(backbone, config)
        self._unread: list[Tensor] = []  # per step (K, figures), see `tabulate`

    def seat(self, subject: Subject, checkpoint: Checkpoint | None = None) -> None:
        """Put a subject into a free slot, of which there must be one; let it go on, if it may.

        From a checkpoint it goes on in the slot it had if that is free. In the same slot of the
        same shape (`num_slots`, `max_vectors`) its result is bit for bit as if it had never
        stopped, whatever its neighbours. In another slot or shape its draws are the same, and
        the rest as between packings: alike to rounding.

        Raises: SubjectError if it cannot be trained, CheckpointError if the checkpoint is of
            another training; nothing has changed then.
        """
        slot, backbone = self.occupants.index(None), self._backbone
        if checkpoint and checkpoint.header.slot in self._free_slots():
            slot = checkpoint.header.slot
        token = slots.initial_token(
            subject, backbone.text_encoders, self._magnitudes, self._max_vectors
        )
        first = slot * self._max_vectors
        rows = {name: slice(first, first + token.num_vectors(name)) for name in self.learners}
        occupant = slots.prepare(subject, rows, backbone, self._config)
        if checkpoint:
            checkpoint.restore(occupant, self.learners, backbone, self._config)
        else:
            for name, learner in self.learners.items():
                learner.seat(rows[name], token.embeddings[name])
        self.occupants[slot] = occupant

    def checkpoint(self, slot: int) -> Checkpoint:
        """Its subject as it is, to go on from. It has done a step, and all of them are read."""
        occupant = self.occupants[slot]
        assert occupant is not None
        assert occupant.step == len(occupant.reports) > 0, "`collect` comes first"
        return Checkpoint.of(occupant, slot, self.learners, self._backbone, self._config)

    def step(self) -> list[Outcome]:
        """One step of every occupant, in one batch; returns those that ended, their slots free."""
        config, backbone, learners = self._config, self._backbone, list(self.learners.values())
        batch = Samples.concat(
            [each.samples(config) if each else self._blank for each in self.occupants]
        )
        conditioning = backbone.encode_prompts(batch.prompts, self._rows())
        losses = denoising_loss(
            backbone, batch.latents, batch.noise, batch.u, conditioning, batch.weights
        )
        losses = losses.unflatten(0, (-1, config.batch_size)).mean(dim=1)  # (K,)
        gradients = torch.autograd.grad(losses.sum(), [each.parameter for each in learners])
        moved = [learner.step(each) for learner, each in zip(learners, gradients, strict=True)]

        self._unread.append(tabulate(losses.detach(), learners, moved))
        occupants = [each for each in self.occupants if each]
        for each in occupants:
            each.step += 1
            each.num_unread += 1
        ends = any(each.step == config.steps for each in occupants)
        return self.collect() if ends or len(self._unread) == self._report_every else []

    def collect(self) -> list[Outcome]:
        """Read and report the steps since the last time; `step` calls it, and returns the same."""
        if not self._unread:
            return []
        figures = torch.stack(self._unread).tolist()  # [steps][K][figures]
        self._unread.clear()
        reports, outcomes = list[SlotReport](), list[Outcome]()
        for slot, occupant in enumerate(self.occupants):
            if occupant is not None and occupant.num_unread:
                reports += occupant.read([of_slots[slot] for of_slots in figures])
                if ended := outcome(occupant, self._rows(), self._backbone, self._config):
                    outcomes.append(ended)
                    self.vacate(slot)
        self._on_step(reports)
        return outcomes

    def vacate(self, slot: int) -> None:
        """Free a slot, whatever its subject has learned."""
        if occupant := self.occupants[slot]:
            for name, learner in self.learners.items():
                learner.vacate(occupant.rows[name])
            self.occupants[slot] = None

    def _free_slots(self) -> list[int]:
        return [slot for slot, each in enumerate(self.occupants) if each is None]

    def _rows(self) -> dict[str, Tensor]:
        return {name: learner.embeddings() for name, learner in self.learners.items()}
