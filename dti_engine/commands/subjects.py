"""Folders that become subjects, and what became of each of them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import degrees
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_engine.commands.terminal import print_json, print_paths, say
from dti_engine.errors import (
    ConfigurationError,
    DTIError,
    InvalidImageError,
    OutputError,
    SubjectError,
    TokenError,
)

if TYPE_CHECKING:
    from dti_engine.outcomes import Outcome
    from dti_engine.slots import Subject

_INITIALIZER_FILE = "initializer.txt"
_STOPPED = 130  # what shells report after Ctrl-C


@dataclass(frozen=True)
class Plan:
    """A folder that becomes a subject when a slot falls free."""

    folder: Path
    placeholder: str
    initializer: str

    @property
    def name(self) -> str:
        return self.placeholder.strip("<>")


def plan(
    folders: Sequence[Path], placeholder: str | None, initializers: Sequence[str]
) -> list[Plan]:
    """One plan per folder, named after it.

    Raises: ConfigurationError if the numbers of names or words and folders do not fit, or a folder
        has no word; TokenError if two folders would get one name, or one gets none.
    """
    if placeholder and len(folders) > 1:
        raise ConfigurationError(
            f"--placeholder {placeholder} cannot name {len(folders)} folders; leave it out, and "
            "each token is named after its folder"
        )
    if not initializers:
        initializers = [_noted_initializer(folder) for folder in folders]
    elif len(initializers) == 1:
        initializers = list(initializers) * len(folders)
    elif len(initializers) != len(folders):
        raise ConfigurationError(
            f"give --initializer once, or once for each of the {len(folders)} folders, "
            f"got {len(initializers)}"
        )
    placeholders = [placeholder] if placeholder else [_placeholder(each) for each in folders]
    if repeated := {each for each in placeholders if placeholders.count(each) > 1}:
        raise TokenError(
            f"several folders would become {', '.join(sorted(repeated))}; rename all but one"
        )
    return [Plan(*each) for each in zip(folders, placeholders, initializers, strict=True)]


def _noted_initializer(folder: Path) -> str:
    """The word that somebody wrote into a file beside the pictures."""
    try:
        return (folder / _INITIALIZER_FILE).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"what is in {str(folder)!r}? Give --initializer and the nearest common word, such as "
            f"dog, or write the word into {_INITIALIZER_FILE} there"
        ) from error


def _placeholder(folder: Path) -> str:
    """`My Dog (2)` -> `<my-dog-2>`."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")[:63]
    if not name:
        raise TokenError(
            f"no name can be made of the folder {str(folder)!r}; rename it or give --placeholder"
        )
    return f"<{name}>"


@dataclass
class Endings:
    """What became of each subject."""

    output: Path
    tokens: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    failed: dict[str, DTIError] = field(default_factory=dict[str, DTIError])
    was_stopped: bool = False  # by the user

    def add(self, outcome: "Outcome") -> None:
        name = outcome.subject.id
        if outcome.artifact is None:
            assert outcome.error
            self.failed[name] = outcome.error
            return
        path = self.output / f"{name}.safetensors"
        try:
            outcome.artifact.save(path)
        except OutputError as error:
            self.failed[name] = error
            return
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

    def tell(self, *, as_json: bool) -> None:
        """Print paths and failures."""
        for name, error in self.failed.items():
            say(f"{name}: {error}", label="[bold red]failed:[/] ")
        if as_json:
            failures = [{"subject": n, "error": str(error)} for n, error in self.failed.items()]
            print_json({"tokens": self.tokens, "failed": failures})
        else:
            print_paths([Path(token["path"]) for token in self.tokens])
        if self.was_stopped:
            say(f"stopped: {len(self.tokens)} tokens were written, what was unfinished is lost")

    def exit_code(self) -> int:
        """0 if all went well, 1 if something failed, 2 if all was refused, 130 after Ctrl-C."""
        if self.was_stopped:
            return _STOPPED
        if self.failed:
            refused = all(isinstance(error, SubjectError) for error in self.failed.values())
            return 2 if refused and not self.tokens else 1
        return 0


def load(
    plans: Sequence[Plan], seed: int, num_vectors: int | None, endings: Endings
) -> Iterator["Subject"]:
    """Subjects with their pictures, loaded one by one; what cannot be loaded has failed."""
    from dti_engine.images import load_pictures
    from dti_engine.slots import Subject

    for plan in plans:
        try:
            pictures = load_pictures(plan.folder)
        except InvalidImageError as error:
            endings.failed[plan.name] = error
        else:
            yield Subject(
                plan.name, pictures, plan.placeholder, plan.initializer, seed, num_vectors
            )
