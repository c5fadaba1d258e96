"""Stop and resume: signals, checkpoints and tokens of earlier runs."""

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dti_engine.errors import ArtifactMismatchError, ConfigurationError, OutputError

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.config import TrainConfig
    from dti_engine.subject import Subject
    from dti_engine.training.checkpoint_manager import CheckpointManager

NOTE = "stopping at the end of this step; a second signal ends at once"


class Signals:
    """The number of the signal that has asked for a stop, or None."""

    received: int | None = None


def write_note() -> None:
    """Write NOTE from a signal handler."""
    with suppress(OSError):
        os.write(2, f"\n{NOTE}\n".encode())  # print is not reentrant


@contextmanager
def signals_to(
    stop: Callable[[], None], *, on_stopping: Callable[[], None] = write_note
) -> Generator[Signals]:
    """Call `stop` at the first Ctrl-C or SIGTERM; the second ends the process as usual.

    `on_stopping` tells the user. In other threads than the main one, signals stay as they are.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():  # Python's rule
        yield signals
        return

    def on_signal(number: int, _: FrameType | None) -> None:
        signals.received = number
        # First of all, so that a second signal ends the process even if stopping takes long.
        restore()
        stop()
        on_stopping()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A signal that a shell or a supervisor has us ignore stays ignored. None: no Python handler.
    before = {
        number: handler
        for number, handler in before.items()
        if handler not in (signal.SIG_IGN, None)
    }
    try:
        for number in before:
            signal.signal(number, on_signal)
        yield signals
    finally:
        restore()


def refuse_unfinished(checkpoints: "CheckpointManager", names: Sequence[str]) -> None:
    """Refuse to start if a subject has a checkpoint, which the run would overwrite.

    Raises: ConfigurationError if there is one.
    """
    if found := [name for name in names if checkpoints.path(name).exists()]:
        raise ConfigurationError(
            f"{len(found)} of the subjects are unfinished, with checkpoints in "
            f"{str(checkpoints.folder)!r}: {', '.join(found):.200}. Add --resume to continue from "
            "them, or delete them to start afresh"
        )


def set_aside(output: Path, names: Sequence[str], suffix: str = ".safetensors") -> None:
    """Move the subjects' files of earlier runs to DIR/earlier, each named by its digest.

    A run that is stopped could not tell them from its own otherwise.

    Raises: OutputError if one cannot be moved.
    """
    for name in names:
        path = output / f"{name}{suffix}"
        try:
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                # By its digest, so that no number of runs ever replaces a different file.
                kept = output / "earlier" / f"{name}-{digest[:12]}{suffix}"
                kept.parent.mkdir(exist_ok=True)
                path.replace(kept)
        except OSError as error:
            raise OutputError(
                f"cannot move {str(path)!r} of an earlier run aside: {error.strerror}"
            ) from error


def is_finished(
    subject: "Subject", token: Path, backbone: "Backbone", config: "TrainConfig"
) -> bool:
    """Return whether the token comes from exactly this subject, config and model.

    Raises: ArtifactMismatchError if it comes from others; ArtifactError if it cannot be read;
        TokenError if the subject's initializer cannot be encoded.
    """
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.text.encoder import initializer_rows
    from dti_engine.training.provenance import Provenance

    if not token.exists():
        return False
    num_vectors = {
        name: subject.num_vectors or len(initializer_rows(encoder, subject.initializer))
        for name, encoder in backbone.text_encoders.items()
    }
    now = Provenance.of(subject, num_vectors, backbone, config)
    if changes := now.changes_since(Artifact.load(token).manifest):
        raise ArtifactMismatchError(
            f"{str(token)!r} comes from another training: {'; '.join(changes)}. Give the same "
            "options, or train without --resume, which moves it aside"
        )
    return True
