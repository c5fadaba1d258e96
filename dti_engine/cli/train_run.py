"""A run of `dti train`: all plans through the slots of one model, told as it goes."""

import signal
import sys
from collections.abc import Collection, Sequence
from math import degrees
from typing import TYPE_CHECKING

from dti_engine import __version__
from dti_engine.cli.console import notes, results
from dti_engine.cli.progress import Tally, TrainingProgress
from dti_engine.cli.resume import is_finished, signals_to
from dti_engine.cli.run_log import EventLog
from dti_engine.cli.subjects import Plans, load
from dti_engine.cli.summary import Endings
from dti_engine.cli.validation import validate_tokens
from dti_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.config import TrainConfig
    from dti_engine.quality.token_scorers import TokenScorer
    from dti_engine.training.metrics import StepMetrics
    from dti_engine.training.slot import TrainingSlot


def run(
    model: "Backbone",
    plans: Plans,
    config: "TrainConfig",
    endings: Endings,
    *,
    seed: int | None,
    num_slots: int,
    num_vectors: int | None,
    max_vectors: int,
    fixed: Collection[str],
    resume: bool,
    judge: "TokenScorer | None",
    num_probes: int,
    keep_every: int | None,
) -> None:
    """Train what is planned, until all of it has ended or a signal stops it; `endings` says which.

    Then tokens are tried out in so many probes, those of every so many steps too, if they are kept.
    fixed: fields of the config in which bundles have no say. resume: skip what is finished.
    """
    # Loaded here at last, as they load torch.
    from dti_engine import devices
    from dti_engine.training.loop import train

    _log_start(endings.log, model, config, len(plans.names), num_slots=num_slots, resume=resume)
    # Lines of JSON on the same screen would tear a table.
    is_live = notes.is_interactive and not (endings.log.echo and results.is_terminal)
    tally = Tally(len(plans.names), num_slots=num_slots, steps=config.steps)
    progress = TrainingProgress(tally, is_live=is_live)
    watch = _Watch(endings.log, progress)
    endings.on_ended = progress.on_ended
    try:
        # One for all of it: between two, a signal would end the process.
        with signals_to(
            endings.checkpoints.request_stop, on_stopping=progress.on_stopping
        ) as signals:
            with progress:
                for name, error in plans.refused.items():
                    endings.fail(name, error)
                subjects = load(
                    plans.subjects,
                    endings,
                    seed=seed,
                    num_vectors=num_vectors,
                    config=config,
                    fixed=fixed,
                    is_finished=lambda subject: (
                        resume and is_finished(subject, endings.path(subject.id), model, config)
                    ),
                )
                for outcome in train(
                    model,
                    subjects,
                    config,
                    num_slots=num_slots,
                    max_vectors=max_vectors,
                    on_added=watch.on_added,
                    on_step=watch.on_step,
                    snapshot_steps=range(keep_every, sys.maxsize, keep_every) if keep_every else (),
                    on_snapshot=endings.keep,
                    checkpoints=endings.checkpoints,
                ):
                    endings.add(outcome)
            if num_probes:
                validate_tokens(
                    model,
                    judge,
                    plans.subjects,
                    endings,
                    num_images=num_probes,
                    resolution=config.resolution,
                )
        if signals.received is not None:
            endings.stop(signals.received)
    except KeyboardInterrupt:  # the second Ctrl-C
        endings.stop(signal.SIGINT)
    except RuntimeError as error:
        if not devices.is_out_of_memory(error):
            raise
        raise ConfigurationError(
            f"memory ran out with {num_slots} subjects at a time; give fewer --slots. --resume "
            "goes on from the last checkpoints"
        ) from error


def _log_start(
    log: EventLog,
    model: "Backbone",
    config: "TrainConfig",
    num_subjects: int,
    *,
    num_slots: int,
    resume: bool,
) -> None:
    log.write(
        "started",
        subjects=num_subjects,
        slots=num_slots,
        model=model.name,
        model_fingerprint=model.fingerprint,
        dtype=str(model.dtype).removeprefix("torch."),
        config=config.model_dump(mode="json"),
        resume=resume,
        engine_version=__version__,
    )


class _Watch:
    """Who is seated, and what steps do, to the log and to the progress."""

    def __init__(self, log: EventLog, progress: TrainingProgress) -> None:
        self._log, self._progress = log, progress
        self._configs: dict[str, TrainConfig] = {}  # of the subjects at work, and of earlier ones

    def on_added(self, slot: int, occupant: "TrainingSlot") -> None:
        name, steps = occupant.subject.id, occupant.config.steps
        self._configs[name] = occupant.config
        self._log.write("seated", subject=name, slot=slot, step=occupant.step, steps=steps)
        self._progress.on_added(slot, occupant)

    def on_step(self, reports: Sequence["StepMetrics"]) -> None:
        for report in reports:
            config = self._configs[report.subject_id]
            # Of the steps in between, `fixed_loss` is what it was then.
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
