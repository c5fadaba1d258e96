"""A folder of checkpoints, so that a run that is stopped or killed loses little."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.errors import ConfigurationError, OutputError

if TYPE_CHECKING:
    from dti_engine.training.checkpoint import Checkpoint


CHECKPOINT_EVERY = 50  # steps of a subject: little to lose, and little to write


def _raise(_: str, error: OutputError) -> None:
    raise error


class CheckpointManager:
    """Writes checkpoints, DIR/NAME.safetensors, and finds them again. `train` does as it says.

    `kept` has the step of each checkpoint that it has written and not removed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        on_save_error: Callable[[str, OutputError], None] = _raise,
    ) -> None:
        """every: steps of a subject between its checkpoints.

        on_save_error: gets a subject's name and the error; if it returns,
        training goes on without.

        Raises: ConfigurationError if `every` is below 1.
        """
        if every < 1:
            raise ConfigurationError(f"steps between checkpoints must be >= 1, got {every}")
        self.folder = folder
        self.saved_steps: dict[str, int] = {}
        self.stop_requested = False
        self._every, self._on_save_error = every, on_save_error

    def request_stop(self) -> None:
        """Let `train` keep all its subjects at the end of its step, and return.

        May be called from another thread, or by the handler of a signal.
        """
        self.stop_requested = True

    def path(self, name: str) -> Path:
        """Where the checkpoint of a subject is, or would be."""
        return self.folder / f"{name}.safetensors"

    def is_due(self, step: int) -> bool:
        """Whether a subject that has done so many steps is to be kept."""
        return step % self._every == 0

    def load(self, name: str) -> "Checkpoint | None":
        """The checkpoint of a subject, if there is one. Raises: CheckpointError, as it does."""
        from dti_engine.training.checkpoint import (
            Checkpoint,  # loads torch; commands ask for paths before
        )

        path = self.path(name)
        return Checkpoint.load(path) if path.exists() else None

    def save(self, checkpoint: "Checkpoint") -> None:
        """Write it in place of an older one."""
        name = checkpoint.header.provenance.subject
        try:
            checkpoint.save(self.path(name))
            self.saved_steps[name] = checkpoint.header.step
        except OutputError as error:
            self._on_save_error(name, error)

    def remove(self, name: str) -> None:
        """What it was kept for is done. A file that cannot be removed does no harm."""
        self.saved_steps.pop(name, None)
        with suppress(OSError):
            self.path(name).unlink(missing_ok=True)
            self.folder.rmdir()  # fails as long as there is another
