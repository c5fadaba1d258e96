"""How many subjects `dti train` trains at a time: as it is told, as it was before, or as fits."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.cli.console import busy, say
from dti_engine.cli.run_log import read_events
from dti_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.config import TrainConfig

_ROOM = 8  # vectors: hardly an initializer has more pieces


def room(wanted: Iterable[int | None]) -> int:
    """`max_vectors` of a run whose tokens are to have so many; None: as many as initializers."""
    return max(_ROOM, *(each or 0 for each in wanted))


def parse_slots(text: str) -> int | None:
    """None: auto. Raises: ConfigurationError if it is neither that nor a number."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"--slots must be auto or a number >= 1, got {text!r}")
    return int(text)


def choose_slots(
    model: "Backbone",
    config: "TrainConfig",
    *,
    wanted: int | None,
    num_subjects: int,
    max_vectors: int,
    earlier_log: Path | None,
) -> int:
    """The number wanted, or that for `auto`, which is told, with the reason, if there was a choice.

    earlier_log: of the run that this one goes on with; its number is taken, since the shape of the
    batch decides how results round. If memory is short, the model is made to recompute.

    Raises: as `autotune_slots`; ConfigurationError if the log cannot be read.
    """
    from dti_engine.training.autotune import autotune_slots, ensure_slots_fit  # loads torch

    recomputed = model.recompute
    if not wanted and earlier_log and (wanted := earlier_slots(earlier_log)):
        say(f"{wanted} at a time, as in the run before")
    if slots := wanted or (1 if num_subjects == 1 else None):
        ensure_slots_fit(model, config, num_slots=slots, max_vectors=max_vectors)
    else:
        with busy("measuring how many subjects fit"):
            found = autotune_slots(
                model, config, num_subjects=num_subjects, max_vectors=max_vectors
            )
        slots = found.slots
        say(f"{slots} at a time: {found.reason}")
    if model.recompute != recomputed:
        say("memory is short: activations are computed twice instead of kept, which takes longer")
    return slots


def earlier_slots(log: Path) -> int | None:
    """Those of the last run that began, by its log; None if nothing says so.

    Raises: ConfigurationError if the log cannot be read.
    """
    if not log.exists():
        return None
    started = [each.get("slots") for each in read_events(log) if each["event"] == "started"]
    return next((each for each in reversed(started) if type(each) is int and each > 0), None)
