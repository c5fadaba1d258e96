"""The results of a training run: reported per subject at once, and summed up at the end."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import degrees
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_engine.cli.console import print_paths, results, say, warn
from dti_engine.cli.progress import SubjectEnd
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

_MANY = 20  # subjects or warnings; a terminal gets no more lines than that, a pipe gets all


@dataclass
class RunSummary:
    """The result of every subject of a run, which is also written to the run's log."""

    output: Path
    names: Sequence[str]
    """Of all subjects."""
    checkpoints: "CheckpointManager"
    log: EventLog
    on_ended: Callable[[str, SubjectEnd], None] = lambda subject, end: None
    tokens: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    skipped: dict[str, Path] = field(default_factory=dict[str, Path])
    """Tokens that an earlier run has finished."""
    failed: dict[str, DTIError] = field(default_factory=dict[str, DTIError])
    flags: dict[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Flags of validated tokens; most have none."""
    unvalidated: Sequence[str] = ()
    """Subjects whose tokens are still to be validated."""
    stopped_by: int | None = None
    """Number of the signal that stopped the run."""
    num_warnings: int = 0
    began: float = field(default_factory=time.monotonic)

    def path(self, name: str) -> Path:
        """Return the path of a subject's token."""
        return self.output / f"{name}.safetensors"

    def add(self, result: "TrainingResult") -> None:
        """Save the token of a trained subject, or report why there is none."""
        name, path = result.subject.id, self.path(result.subject.id)
        if result.artifact is None:
            assert result.error
            self.fail(name, result.error)
            if isinstance(
                result.error, TrainingFailedError
            ):  # from its checkpoint it would fail again
                self.checkpoints.remove(name)
            return
        try:
            result.artifact.save(path)
        except OutputError as error:
            self.fail(name, error)
            return
        # After the token is safe: a crash in between leaves a checkpoint that is not needed, while
        # the other order could lose the training.
        self.checkpoints.remove(name)
        last, training = result.metrics[-1], result.artifact.manifest.training
        assert training
        token = {
            "subject": name,
            "placeholder": result.subject.placeholder,
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
        """Save the token of an intermediate step."""
        from dti_engine.quality.run_folder import RunFolder  # loads torch

        training = artifact.manifest.training
        assert training
        try:
            artifact.save(RunFolder(self.output).snapshot(subject.id, training.steps_done))
        except OutputError as error:
            self.warn(
                subject.id,
                f"continues, but the token of step {training.steps_done} is not kept: {error}",
            )

    def fail(self, name: str, error: DTIError) -> None:
        """Report a failure at once: a run of thousands of subjects may last for days."""
        self.failed[name] = error.bare()
        self.log.write("failed", **_failure(name, error))
        self.on_ended(name, "failed")
        say(f"{name}: {error}", label="[bold red]failed:[/] ")

    def skip(self, name: str) -> None:
        """Count a subject whose token an earlier run has finished."""
        self.skipped[name] = path = self.path(name)
        self.checkpoints.remove(name)
        self.log.write("skipped", subject=name, path=str(path))
        self.on_ended(name, "skipped")
        if len(self.names) <= _MANY:
            say(f"{name}: finished by an earlier run, {path}")

    def add_validation(self, name: str, artifact: "Artifact") -> None:
        """Log the scores and flags of a token, which this run or an earlier one has validated."""
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
        """Report a problem of a subject that continues nevertheless."""
        self.log.write("warning", subject=name, message=message)
        self.num_warnings += 1
        if self.num_warnings <= _MANY:
            warn(f"{name}: {message}")
        elif self.num_warnings == _MANY + 1:
            warn(f"there are more of these in {str(self.log.path)!r}")

    def stop(self, number: int) -> None:
        """Note the signal that has stopped the run."""
        self.stopped_by = number
        self.log.write("stopped", signal=signal.Signals(number).name)

    def unfinished(self) -> list[str]:
        """Return the subjects that have not ended."""
        ended = {token["subject"] for token in self.tokens} | self.skipped.keys()
        ended |= self.failed.keys()
        return [name for name in self.names if name not in ended]

    def report(self, *, as_json: bool) -> None:
        """Print the paths of tokens, and how to continue after a stop; log the last event."""
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
                f"{str(self.log.path)!r} has the reasons"
            )
        if self.stopped_by is not None:
            self._say_how_to_resume(unfinished)

    def _say_how_to_resume(self, unfinished: Sequence[str]) -> None:
        if unfinished:
            kept = [name for name in unfinished if name in self.checkpoints.saved_steps]
            say(
                f"stopped: {len(self.tokens)} tokens were written, {len(unfinished)} subjects are "
                f"unfinished, {len(kept)} of them with checkpoints in "
                f"{str(self.checkpoints.folder)!r}; the same command with --resume continues"
            )
        elif self.unvalidated:
            say(
                f"stopped: {len(self.unvalidated)} tokens are not validated yet; the same command "
                "with --resume continues"
            )

    def _print_tokens(self) -> None:
        paths = [*self.skipped.values(), *(Path(token["path"]) for token in self.tokens)]
        if results.is_terminal and len(paths) > _MANY:
            earlier = f", {len(self.skipped)} of them from an earlier run" if self.skipped else ""
            print_paths([self.output])
            say(f"{len(paths)} tokens were written{earlier}")
        else:
            print_paths(paths)

    def exit_code(self) -> int:
        """Return 0 for success, 1 if a subject failed, 2 if all were refused before training.

        After a stop with something left to do, return what shells report of the signal: 130 for
        Ctrl-C, 143 for SIGTERM.
        """
        if self.stopped_by is not None and (self.unfinished() or self.unvalidated):
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
