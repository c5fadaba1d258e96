"""One run of `dti train`: subjects pass through the slots of one model, events go to the log."""

import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import degrees
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine import __version__
from dti_engine.cli.console import notes, output_folder, results, warn
from dti_engine.cli.loading import open_backbone
from dti_engine.cli.progress import TrainingProgress
from dti_engine.cli.resume import is_finished, refuse_unfinished, set_aside, signals_to
from dti_engine.cli.run_log import EventLog
from dti_engine.cli.slots import choose_slots, max_vectors_of
from dti_engine.cli.subjects import SubjectDefaults, SubjectPlans, load_subjects
from dti_engine.cli.summary import RunSummary
from dti_engine.cli.validation import validate_tokens
from dti_engine.config import DtypeName
from dti_engine.domains import domain_of
from dti_engine.errors import ConfigurationError, TokenError
from dti_engine.training.checkpoint_manager import CheckpointManager

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.config import TrainConfig
    from dti_engine.quality.token_scorers import TokenScorer
    from dti_engine.subject import Subject
    from dti_engine.training.metrics import StepMetrics
    from dti_engine.training.result import TrainingResult
    from dti_engine.training.slot import TrainingSlot


@dataclass(frozen=True)
class TrainOptions:
    """The options of `dti train` besides bundles and the training config."""

    output: Path
    model: str
    device: str
    dtype: DtypeName
    compiled: bool
    recompute: bool
    num_slots: int | None
    """None: measure which number fits and is fastest."""
    num_vectors: int | None
    seed: int | None
    checkpoint_every: int
    num_validation_images: int
    scorer: str | None
    keep_every: int | None
    resume: bool
    force: bool
    as_json: bool


def train_bundles(
    plans: SubjectPlans, config: "TrainConfig", changed: Collection[str], options: TrainOptions
) -> int:
    """Train and validate all planned subjects, and return the exit code.

    Args:
        plans: the subjects, and the bundles that are refused.
        config: of subjects whose bundles change nothing.
        changed: the fields of the config that the command line sets; bundles cannot change them.
        options: everything else.
    """
    output = output_folder(options.output)
    checkpoints = CheckpointManager(
        output / "checkpoints",
        every=options.checkpoint_every,
        on_save_error=lambda name, error: summary.warn(
            name, f"continues without a checkpoint: {error}"
        ),
    )
    if options.resume:
        # Subjects with a checkpoint come first, so that each returns to the slot that it had.
        subjects = sorted(plans.subjects, key=lambda plan: not checkpoints.path(plan.name).exists())
        plans = replace(plans, subjects=subjects)
    else:
        refuse_unfinished(checkpoints, plans.names)
    with EventLog(output, on_lost=warn, echo=options.as_json) as log:
        run = _open_run(plans, config, changed, options, log)
        # Only now, under the lock of the log: another run in this folder must not lose its tokens.
        if not options.resume:
            set_aside(output, [plan.name for plan in plans.subjects])
        summary = RunSummary(output, plans.names, checkpoints, log)
        try:
            run.run(summary)
        finally:  # whatever ended the run, such as a lack of memory, its results are reported
            summary.report(as_json=options.as_json)
    return summary.exit_code()


def _open_run(
    plans: SubjectPlans,
    config: "TrainConfig",
    changed: Collection[str],
    options: TrainOptions,
    log: EventLog,
) -> "TrainingRun":
    """Load the model and the scorer, and choose how many subjects are trained at a time."""
    model = open_backbone(options.model, device=options.device, dtype=options.dtype)
    # Before training: a scorer that is missing must not be noticed at the end of it.
    scorer = _find_scorer(options, model)
    model.recompute = options.recompute
    max_vectors = max_vectors_of(
        [options.num_vectors, *(plan.num_vectors for plan in plans.subjects)]
    )
    num_slots = choose_slots(
        model,
        config,
        requested=options.num_slots,
        num_subjects=len(plans.subjects),
        max_vectors=max_vectors,
        earlier_log=log.path if options.resume else None,
    )
    if options.compiled:  # not before: every batch size that is measured would be compiled
        model.compile()
    # The miniature has captions of one family only.
    fixed = {*changed, *(["captions"] if config.captions == "miniature" else [])}
    return TrainingRun(plans, config, fixed, options, model, scorer, num_slots, max_vectors)


def _find_scorer(options: TrainOptions, model: "Backbone") -> "TokenScorer | None":
    """Return the scorer of validation images, if there is one.

    Raises: ConfigurationError if there is none and the best of several steps has to be chosen.
    """
    from dti_engine.quality.token_scorers import find_scorer  # loads torch

    scorer = find_scorer(options.model, options.scorer, device=model.device)
    must_choose = options.keep_every is not None and options.num_validation_images > 0
    if must_choose and scorer is None:
        raise ConfigurationError(
            f"nothing can score images of {options.model!r}, so the best of the steps of "
            "--keep-every cannot be chosen; give --scorer, or add --validation-images 0 to keep "
            "them and choose by eye"
        )
    return scorer


@dataclass
class TrainingRun:
    """A run whose model is loaded."""

    plans: SubjectPlans
    config: "TrainConfig"
    fixed: Collection[str]
    """Fields of the config that bundles cannot change."""
    options: TrainOptions
    model: "Backbone"
    scorer: "TokenScorer | None"
    num_slots: int
    max_vectors: int

    def run(self, summary: RunSummary) -> None:
        """Train and validate until all subjects have ended or a signal stops the run.

        Raises: ConfigurationError if memory runs out.
        """
        from dti_engine import devices  # loads torch

        self._log_start(summary.log)
        # Lines of JSON on the same screen would break a live table.
        is_live = notes.is_interactive and not (summary.log.echo and results.is_terminal)
        progress = TrainingProgress(
            len(self.plans.names),
            steps=self.config.steps,
            is_live=is_live,
        )
        summary.on_ended = progress.on_ended
        try:
            # One handler spans training and validation: a signal between two handlers would end
            # the process without checkpoints.
            with signals_to(
                summary.checkpoints.request_stop, on_stopping=progress.on_stopping
            ) as signals:
                with progress:
                    for name, error in self.plans.refused.items():
                        summary.fail(name, error)
                    for result in self._train(summary, progress):
                        summary.add(result)
                if self.options.num_validation_images:
                    validate_tokens(
                        self.model,
                        self.scorer,
                        self.plans.subjects,
                        summary,
                        num_images=self.options.num_validation_images,
                        resolution=self.config.resolution,
                    )
            if signals.received is not None:
                summary.stop(signals.received)
        # The user wants the end now: no checkpoints are written, and those of before remain.
        except KeyboardInterrupt:  # the second Ctrl-C
            summary.stop(signal.SIGINT)
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
            raise ConfigurationError(
                f"memory ran out with {self.num_slots} subjects at a time; give fewer --slots. "
                "--resume continues from the last checkpoints"
            ) from error

    def _train(self, summary: RunSummary, progress: TrainingProgress) -> "Iterator[TrainingResult]":
        from dti_engine.training.loop import train

        events = _TrainingEvents(summary.log, progress)
        keep_every = self.options.keep_every
        return train(
            self.model,
            self._subjects(summary),
            self.config,
            num_slots=self.num_slots,
            max_vectors=self.max_vectors,
            on_added=events.on_added,
            on_step=events.on_step,
            snapshot_steps=range(keep_every, sys.maxsize, keep_every) if keep_every else (),
            on_snapshot=summary.keep,
            checkpoints=summary.checkpoints,
        )

    def _subjects(self, summary: RunSummary) -> "Iterator[Subject]":
        """Load the planned subjects, without those that an earlier run has finished."""
        from dti_engine.training.slot import caption_warnings

        def is_done(subject: "Subject") -> bool:
            token = summary.path(subject.id)
            return self.options.resume and is_finished(subject, token, self.model, self.config)

        defaults = SubjectDefaults(
            self.options.seed,
            self.options.num_vectors,
            self.config,
            self.fixed,
            domain_of(self.options.model),
            force=self.options.force,
        )
        for subject in load_subjects(self.plans.subjects, summary, defaults, is_finished=is_done):
            with suppress(TokenError):  # training raises it again, and then it is the subject's
                for warning in caption_warnings(subject, self.model):
                    summary.warn(subject.id, warning)
            yield subject

    def _log_start(self, log: EventLog) -> None:
        log.write(
            "started",
            subjects=len(self.plans.names),
            slots=self.num_slots,
            model=self.model.name,
            model_fingerprint=self.model.fingerprint,
            dtype=str(self.model.dtype).removeprefix("torch."),
            config=self.config.model_dump(mode="json"),
            resume=self.options.resume,
            engine_version=__version__,
        )


class _TrainingEvents:
    """Callbacks of the training loop, which write the log and update the display."""

    def __init__(self, log: EventLog, progress: TrainingProgress) -> None:
        self._log, self._progress = log, progress
        self._configs: dict[str, TrainConfig] = {}  # by subject, in training or ended

    def on_added(self, slot: int, training_slot: "TrainingSlot") -> None:
        name, steps = training_slot.subject.id, training_slot.config.steps
        self._configs[name] = training_slot.config
        step = training_slot.step
        self._log.write("slot_assigned", subject=name, slot=slot, step=step, steps=steps)
        self._progress.on_started(slot, name, step=step, steps=steps)

    def on_step(self, reports: Sequence["StepMetrics"]) -> None:
        for report in reports:
            config = self._configs[report.subject_id]
            # Between two evaluations `fixed_loss` repeats the last one, so those steps say nothing.
            if report.step % config.eval_every == 0 or report.step == config.steps:
                self._log.write(
                    "progress",
                    subject=report.subject_id,
                    step=report.step,
                    steps=config.steps,
                    loss=report.loss,
                    fixed_loss=report.fixed_loss,
                    prior_angle_deg=degrees(report.prior_angle_rad),
                    norm=report.norm,
                    seconds=round(report.elapsed_s, 3),
                )
        self._progress.on_step(reports)
