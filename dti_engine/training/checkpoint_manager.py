"""A folder of checkpoints, so that a run that is stopped or killed loses little work."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.errors import ConfigurationError, OutputError

if TYPE_CHECKING:
    from dti_engine.training.checkpoint import Checkpoint


CHECKPOINT_EVERY = 50  # steps of a subject: little work to lose, little to write


def _raise(_: str, error: OutputError) -> None:
    raise error


class CheckpointManager:
    """Saves, loads and removes the checkpoints of a run, FOLDER/NAME.safetensors, for `train`.

    `saved_steps` maps each subject to the step of the checkpoint that this manager has saved and
    not removed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        on_save_error: Callable[[str, OutputError], None] = _raise,
    ) -> None:
        """Save each subject after every `every` of its own steps.

        on_save_error gets a subject's name and why its checkpoint cannot be written; if it returns,
        training continues without that checkpoint.

        Raises:
            ConfigurationError: `every` is below 1.
        """
        if every < 1:
            raise ConfigurationError(f"steps between checkpoints must be >= 1, got {every}")
        self.folder = folder
        self.saved_steps: dict[str, int] = {}
        self.stop_requested = False
        self._every, self._on_save_error = every, on_save_error

    def request_stop(self) -> None:
        """Make `train` save all its subjects at the end of the current step, and return.

        May be called from another thread or from a signal handler.
        """
        # A plain assignment, because a signal handler runs between two bytecodes of the very thread
        # that trains: a lock that this thread holds would never be released.
        self.stop_requested = True

    def path(self, name: str) -> Path:
        """Return the path of a subject's checkpoint, whether or not it exists."""
        return self.folder / f"{name}.safetensors"

    def is_due(self, step: int) -> bool:
        """Return whether a subject that has done `step` steps is to be saved now."""
        return step % self._every == 0

    def load(self, name: str) -> "Checkpoint | None":
        """Return the checkpoint of a subject, or None if there is none.

        Raises:
            CheckpointError: As `Checkpoint.load`.
        """
        # Imported here since it loads torch: commands ask for paths long before they need a model.
        from dti_engine.training.checkpoint import Checkpoint

        path = self.path(name)
        return Checkpoint.load(path) if path.exists() else None

    def save(self, checkpoint: "Checkpoint") -> None:
        """Write a checkpoint in place of the subject's previous one."""
        name = checkpoint.header.provenance.subject
        try:
            checkpoint.save(self.path(name))
            self.saved_steps[name] = checkpoint.header.step
        # A full disk need not end a run of days. The previous checkpoint of the subject is still
        # there, since files are replaced atomically.
        except OutputError as error:
            self._on_save_error(name, error)

    def remove(self, name: str) -> None:
        """Remove a subject's checkpoint; a file that cannot be removed does no harm."""
        self.saved_steps.pop(name, None)
        with suppress(OSError):
            self.path(name).unlink(missing_ok=True)
            self.folder.rmdir()  # fails while other checkpoints are left
