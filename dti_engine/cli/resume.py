"""Runs that are stopped, and that go on: signals, and what is there from before."""

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

NOTE = "stopping at the end of this step; the same again ends at once"


class Signals:
    """Which signal has asked for a stop: its number, or None."""

    received: int | None = None


def write_note() -> None:
    with suppress(OSError):
        os.write(2, f"\n{NOTE}\n".encode())  # print may be at work in what was interrupted


@contextmanager
def signals_to(
    stop: Callable[[], None], *, on_stopping: Callable[[], None] = write_note
) -> Generator[Signals]:
    """Call `stop` at the first Ctrl-C or SIGTERM; the second one ends the process as ever.

    on_stopping: says so to whoever watches.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():  # others may not handle any
        yield signals
        return

    def on_signal(number: int, _: FrameType | None) -> None:
        signals.received = number
        for each, handler in before.items():
            signal.signal(each, handler)
        stop()
        on_stopping()

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    # What a shell or a supervisor has told us to ignore stays ignored. None: not ours to restore.
    before = {
        each: handler for each, handler in before.items() if handler not in (signal.SIG_IGN, None)
    }
    try:
        for each in before:
            signal.signal(each, on_signal)
        yield signals
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def refuse_unfinished(checkpoints: "CheckpointManager", names: Sequence[str]) -> None:
    """Raises: ConfigurationError if one of these subjects has a checkpoint.

    Whoever starts anew without a word would write over the only copy of work that was paid for.
    """
    if found := [name for name in names if checkpoints.path(name).exists()]:
        raise ConfigurationError(
            f"{len(found)} of the subjects are unfinished, with checkpoints in "
            f"{str(checkpoints.folder)!r}: {', '.join(found):.200}. Add --resume to go on, "
            "or delete them to start afresh"
        )


def set_aside(output: Path, names: Sequence[str], suffix: str = ".safetensors") -> None:
    """Move tokens that these subjects have from before to DIR/earlier, each under its digest; or
    files that end otherwise.

    Else a run that is stopped could not tell them from its own.

    Raises: OutputError if one cannot be moved.
    """
    for name in names:
        token = output / f"{name}{suffix}"
        try:
            if token.is_file():
                digest = hashlib.sha256(token.read_bytes()).hexdigest()
                kept = output / "earlier" / f"{name}-{digest[:12]}{suffix}"
                kept.parent.mkdir(exist_ok=True)
                token.replace(kept)
        except OSError as error:
            raise OutputError(
                f"cannot move {str(token)!r}, which is from before, aside: {error.strerror}"
            ) from error


def is_finished(
    subject: "Subject", token: Path, backbone: "Backbone", config: "TrainConfig"
) -> bool:
    """Whether the token was made of just this subject, by just this config and backbone.

    Raises: ArtifactMismatchError if it was made of something else; ArtifactError if it cannot be
        read; TokenError if the subject's initializer cannot be.
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
            f"{str(token)!r} is there from another training: {'; '.join(changes)}. Give what it "
            "was made with, or train without --resume, which sets it aside"
        )
    return True
