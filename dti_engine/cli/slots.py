"""The number of subjects that are trained at a time: requested, resumed, or measured."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.cli.console import busy, say
from dti_engine.cli.run_log import read_events
from dti_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.config import TrainConfig

_MIN_VECTORS = 8  # hardly any initializer has more pieces


def max_vectors_of(requested: Iterable[int | None]) -> int:
    """Return the vectors per token that a run has room for; None: as many as the initializer."""
    return max(_MIN_VECTORS, *(num_vectors or 0 for num_vectors in requested))


def parse_slots(text: str) -> int | None:
    """Return the number of `--slots`, or None for auto. Raises: ConfigurationError for others."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"--slots must be auto or a number >= 1, got {text!r}")
    return int(text)


def choose_slots(
    model: "Backbone",
    config: "TrainConfig",
    *,
    requested: int | None,
    num_subjects: int,
    max_vectors: int,
    earlier_log: Path | None,
) -> int:
    """Return the number of slots; where there was a choice, say it with the reason.

    If memory is short, the model is set to recompute activations.

    Args:
        model: the model in which subjects are trained.
        config: of subjects whose bundles change nothing.
        requested: the number that the user gives; None measures which is fastest and fits.
        num_subjects: more slots than subjects are of no use.
        max_vectors: the most vectors of a token.
        earlier_log: of the run that this one resumes. Its number is taken again, because the shape
            of the batch decides how results round.

    Raises: ConfigurationError if the log cannot be read, or as `autotune_slots`.
    """
    from dti_engine.training.autotune import autotune_slots, ensure_slots_fit  # loads torch

    recomputed = model.recompute
    if not requested and earlier_log and (requested := earlier_slots(earlier_log)):
        say(f"{requested} at a time, as in the run before")
    if slots := requested or (1 if num_subjects == 1 else None):
        ensure_slots_fit(model, config, num_slots=slots, max_vectors=max_vectors)
    else:
        with busy("measuring how many subjects fit"):
            plan = autotune_slots(model, config, num_subjects=num_subjects, max_vectors=max_vectors)
        slots = plan.slots
        say(f"{slots} at a time: {plan.reason}")
    if model.recompute != recomputed:
        say("memory is short: activations are computed twice instead of stored, which takes longer")
    return slots


def earlier_slots(log: Path) -> int | None:
    """Return the slots of the last run that started, by its log, or None.

    Raises: ConfigurationError if the log cannot be read.
    """
    if not log.exists():
        return None
    started = [event.get("slots") for event in read_events(log) if event["event"] == "started"]
    # `isinstance` would accept true, which is an int.
    return next((slots for slots in reversed(started) if type(slots) is int and slots > 0), None)
