"""What became of each subject of a training, and how it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import degrees
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_engine.commands.terminal import print_json, print_paths, say
from dti_engine.errors import (
    ArtifactError,
    DTIError,
    OutputError,
    SubjectError,
    TrainingFailedError,
)

if TYPE_CHECKING:
    from dti_engine.keepers import Keeper
    from dti_engine.outcomes import Outcome


@dataclass
class Endings:
    """What became of each subject."""

    output: Path
    names: Sequence[str]  # of all subjects
    keeper: "Keeper"
    tokens: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    skipped: dict[str, Path] = field(default_factory=dict[str, Path])  # finished before
    failed: dict[str, DTIError] = field(default_factory=dict[str, DTIError])
    stopped_by: int | None = None  # the number of a signal

    def path(self, name: str) -> Path:
        """Of a subject's token."""
        return self.output / f"{name}.safetensors"

    def add(self, outcome: "Outcome") -> None:
        name, path = outcome.subject.id, self.path(outcome.subject.id)
        if outcome.artifact is None:
            assert outcome.error
            self.failed[name] = outcome.error
            if isinstance(outcome.error, TrainingFailedError):  # it would fail again
                self.keeper.remove(name)
            return
        try:
            outcome.artifact.save(path)
        except OutputError as error:
            self.failed[name] = error
            return
        self.keeper.remove(name)
        last = outcome.reports[-1]
        self.tokens.append(
            {
                "subject": name,
                "placeholder": outcome.subject.placeholder,
                "path": str(path),
                "steps": last.step,
                "seconds": round(last.seconds, 3),
                "loss": last.loss,
                "prior_angle_deg": degrees(last.prior_angle_rad),
                "norm": last.norm,
            }
        )

    def skip(self, name: str) -> None:
        """Its token was finished before."""
        self.skipped[name] = self.path(name)
        self.keeper.remove(name)
        say(f"{name}: finished before, {self.path(name)}")

    def unfinished(self) -> list[str]:
        ended = {token["subject"] for token in self.tokens} | self.skipped.keys()
        return [name for name in self.names if name not in ended | self.failed.keys()]

    def tell(self, *, as_json: bool) -> None:
        """Print paths and failures, and how to go on after a stop."""
        for name, error in self.failed.items():
            say(f"{name}: {error}", label="[bold red]failed:[/] ")
        unfinished = self.unfinished()
        if as_json:
            print_json(
                {
                    "tokens": self.tokens,
                    "skipped": [{"subject": n, "path": str(p)} for n, p in self.skipped.items()],
                    "failed": [{"subject": n, "error": str(e)} for n, e in self.failed.items()],
                    "unfinished": [
                        {"subject": n, "checkpoint_step": self.keeper.kept.get(n)}
                        for n in unfinished
                    ],
                }
            )
        else:
            print_paths([*self.skipped.values(), *(Path(token["path"]) for token in self.tokens)])
        if self.stopped_by is not None and unfinished:
            kept = [each for each in unfinished if each in self.keeper.kept]
            say(
                f"stopped: {len(self.tokens)} tokens were written, {len(unfinished)} subjects are "
                f"unfinished, {len(kept)} of them kept in {str(self.keeper.folder)!r}; the same "
                "command with --resume goes on"
            )

    def exit_code(self) -> int:
        """0 if all went well, 1 if something failed, 2 if all was refused.

        After a stop with something unfinished, what shells report of the signal: 130 of Ctrl-C, 143
        of SIGTERM.
        """
        if self.stopped_by is not None and self.unfinished():
            return 128 + self.stopped_by
        if self.failed:
            refused = all(
                isinstance(error, SubjectError | ArtifactError) for error in self.failed.values()
            )
            return 2 if refused and not self.tokens and not self.skipped else 1
        return 0
