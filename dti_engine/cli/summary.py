"""What became of each subject of a training, and how it is told: at once, and at the end."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import degrees
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_engine.cli.console import print_paths, results, say, warn
from dti_engine.cli.progress import PendingDelivery
from dti_engine.cli.run_log import EventLog
from dti_engine.errors import (
    ArtifactError,
    ConfigurationError,
    DTIError,
    OutputError,
    SubjectError,
    TrainingFailedError,
)

if TYPE_CHECKING:
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.subject import Subject
    from dti_engine.training.checkpoint_manager import CheckpointManager
    from dti_engine.training.result import TrainingResult

_MANY = 20  # subjects: with more, a terminal is spared what a file or a pipe gets in full


@dataclass
class Endings:
    """What became of each subject."""

    output: Path
    names: Sequence[str]  # of all subjects
    checkpoints: "CheckpointManager"
    log: EventLog
    on_ended: Callable[[str, PendingDelivery], None] = lambda subject, how: None
    tokens: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    skipped: dict[str, Path] = field(default_factory=dict[str, Path])  # finished before
    failed: dict[str, DTIError] = field(default_factory=dict[str, DTIError])
    flags: dict[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])  # if tried
    untried: Sequence[str] = ()  # that were to be tried out, and are not yet
    stopped_by: int | None = None  # the number of a signal
    num_warnings: int = 0
    began: float = field(default_factory=time.monotonic)

    def path(self, name: str) -> Path:
        """Of a subject's token."""
        return self.output / f"{name}.safetensors"

    def add(self, outcome: "TrainingResult") -> None:
        name, path = outcome.subject.id, self.path(outcome.subject.id)
        if outcome.artifact is None:
            assert outcome.error
            self.fail(name, outcome.error)
            if isinstance(outcome.error, TrainingFailedError):  # it would fail again
                self.checkpoints.remove(name)
            return
        try:
            outcome.artifact.save(path)
        except OutputError as error:
            self.fail(name, error)
            return
        self.checkpoints.remove(name)
        last, training = outcome.metrics[-1], outcome.artifact.manifest.training
        assert training
        token = {
            "subject": name,
            "placeholder": outcome.subject.placeholder,
            "path": str(path),
            "steps": last.step,
            "seconds": round(last.elapsed_s, 3),
            "stop_reason": training.stop_reason,
            "loss": last.loss,
            "fixed_loss": last.fixed_loss,
            "prior_angle_deg": degrees(last.prior_angle_rad),
            "norm": last.norm,
        }
        self.tokens.append(token)
        self.log.write("finished", **token)
        self.on_ended(name, "finished")

    def keep(self, subject: "Subject", artifact: "Artifact") -> None:
        """What a subject has learned on its way."""
        from dti_engine.quality.run_folder import RunFolder  # loads torch

        training = artifact.manifest.training
        assert training
        try:
            artifact.save(RunFolder(self.output).snapshot(subject.id, training.steps_done))
        except OutputError as error:
            self.warn(subject.id, f"goes on, but step {training.steps_done} is not kept: {error}")

    def fail(self, name: str, error: DTIError) -> None:
        """Said at once: of thousands of subjects, whoever waits for the last hears it too late."""
        self.failed[name] = error.bare()
        self.log.write("failed", **_failure(name, error))
        self.on_ended(name, "failed")
        say(f"{name}: {error}", label="[bold red]failed:[/] ")

    def skip(self, name: str) -> None:
        """Its token was finished before."""
        self.skipped[name] = path = self.path(name)
        self.checkpoints.remove(name)
        self.log.write("skipped", subject=name, path=str(path))
        self.on_ended(name, "skipped")
        if len(self.names) <= _MANY:
            say(f"{name}: finished before, {path}")

    def note_trial(self, name: str, artifact: "Artifact") -> None:
        """Its token was tried out, now or before."""
        training = artifact.manifest.training
        assert training
        assert training.quality
        quality = training.quality
        self.flags[name] = quality.flags
        self.log.write(
            "validated",
            subject=name,
            subject_score=quality.subject_score,
            prompt_score=quality.prompt_score,
            steps=training.steps_done,
            stop_reason=training.stop_reason,
            flags=list(quality.flags),
        )

    def warn(self, name: str, message: str) -> None:
        """Of a subject that goes on."""
        self.log.write("warning", subject=name, message=message)
        self.num_warnings += 1
        if self.num_warnings <= _MANY:
            warn(f"{name}: {message}")
        elif self.num_warnings == _MANY + 1:
            warn(f"there are more of these in {str(self.log.path)!r}")

    def stop(self, number: int) -> None:
        """The run was stopped by this signal."""
        self.stopped_by = number
        self.log.write("stopped", signal=signal.Signals(number).name)

    def unfinished(self) -> list[str]:
        ended = {token["subject"] for token in self.tokens} | self.skipped.keys()
        ended |= self.failed.keys()
        return [name for name in self.names if name not in ended]

    def tell(self, *, as_json: bool) -> None:
        """Print paths, and how to go on after a stop; the log's last event says it all."""
        unfinished, seconds = self.unfinished(), time.monotonic() - self.began
        self.log.write(
            "ended",
            tokens=self.tokens,
            skipped=[{"subject": n, "path": str(path)} for n, path in self.skipped.items()],
            failed=[_failure(name, error) for name, error in self.failed.items()],
            unfinished=[
                {"subject": n, "checkpoint_step": self.checkpoints.saved_steps.get(n)}
                for n in unfinished
            ],
            counts={
                "finished": len(self.tokens),
                "failed": len(self.failed),
                "skipped": len(self.skipped),
                "unfinished": len(unfinished),
            },
            seconds=round(seconds, 3),
            subjects_per_hour=round(3600 * len(self.tokens) / seconds, 1),
        )
        if not as_json:
            self._print_tokens()
        if self.failed and len(self.names) > _MANY:
            say(
                f"{len(self.failed)} of {len(self.names)} subjects failed; "
                f"{str(self.log.path)!r} says why"
            )
        if self.stopped_by is not None and unfinished:
            kept = [each for each in unfinished if each in self.checkpoints.saved_steps]
            say(
                f"stopped: {len(self.tokens)} tokens were written, {len(unfinished)} subjects are "
                f"unfinished, {len(kept)} of them kept in {str(self.checkpoints.folder)!r}; the "
                "same command with --resume goes on"
            )
        elif self.stopped_by is not None and self.untried:
            say(
                f"stopped: {len(self.untried)} tokens are not tried out yet; the same command with "
                "--resume goes on"
            )

    def _print_tokens(self) -> None:
        paths = [*self.skipped.values(), *(Path(token["path"]) for token in self.tokens)]
        if results.is_terminal and len(paths) > _MANY:
            before = f", {len(self.skipped)} of them from before" if self.skipped else ""
            print_paths([self.output])
            say(f"{len(paths)} tokens are there{before}")
        else:
            print_paths(paths)

    def exit_code(self) -> int:
        """0 if all went well, 1 if something failed, 2 if all was refused.

        After a stop with something unfinished or untried, what shells report of the signal: 130 of
        Ctrl-C, 143 of SIGTERM.
        """
        if self.stopped_by is not None and (self.unfinished() or self.untried):
            return 128 + self.stopped_by
        if self.failed:
            refused = all(
                isinstance(error, SubjectError | ArtifactError | ConfigurationError)
                for error in self.failed.values()
            )
            return 2 if refused and not self.tokens and not self.skipped else 1
        return 0


def _failure(name: str, error: DTIError) -> dict[str, str]:
    return {"subject": name, "error": str(error), "kind": type(error).__name__}
