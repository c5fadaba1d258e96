"""Bundles that become subjects."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.commands.endings import Endings
from dti_engine.errors import ArtifactError, ConfigurationError, SubjectError, TokenError

if TYPE_CHECKING:
    from dti_engine.bundles.description import Description
    from dti_engine.config import TrainConfig
    from dti_engine.slots import Subject


@dataclass(frozen=True)
class Plan:
    """A bundle that becomes a subject when a slot falls free."""

    path: Path
    name: str  # of the subject and its file
    placeholder: str
    initializer: str


def plan(paths: Sequence[Path], placeholder: str | None, initializers: Sequence[str]) -> list[Plan]:
    """One plan per bundle, by what is said here, else by its bundle.json, else by its own name.

    Raises: ConfigurationError if the numbers of names or words and bundles do not fit, or a bundle
        has no word; TokenError if two bundles would get one name, or one gets none.
    """
    from dti_engine.bundles.loading import load_bundle, read_description

    if placeholder and len(paths) > 1:
        raise ConfigurationError(
            f"--placeholder {placeholder} cannot name {len(paths)} bundles; leave it out, and "
            "each token is named after its bundle"
        )
    if len(initializers) not in (0, 1, len(paths)):
        raise ConfigurationError(
            f"give --initializer once, or once for each of the {len(paths)} bundles, "
            f"got {len(initializers)}"
        )
    words = list(initializers) * len(paths) if len(initializers) == 1 else list(initializers)
    plans: list[Plan] = []
    for index, path in enumerate(paths):
        said = read_description(path)
        name = placeholder or placeholder_of(path, said)
        word = words[index] if words else said.initializer
        if word is None:
            load_bundle(path)  # if bundle.json is there and refused, that is what is to be said
            raise ConfigurationError(
                f"what is in {str(path)!r}? Give --initializer and the nearest common word, such "
                'as dog, or put bundle.json there, with {"initializer": "dog"}'
            )
        plans.append(Plan(path, said.subject or name.strip("<>"), name, word))
    names = [each.name for each in plans]
    if repeated := {each for each in names if names.count(each) > 1}:
        raise TokenError(
            f"several bundles would become {', '.join(sorted(repeated))}; rename all but one"
        )
    return plans


def placeholder_of(path: Path, said: "Description") -> str:
    """By what bundle.json says, or else by the name: `My Dog (2).zip` -> `<my-dog-2>`."""
    from dti_engine.bundles.contents import bare_name

    if said.placeholder or said.subject:
        return said.placeholder or f"<{said.subject}>"
    name = re.sub(r"[^a-z0-9_-]+", "-", bare_name(path).lower()).strip("-_")[:63]
    if not name:
        raise TokenError(
            f"no name can be made of {str(path)!r}; rename it, or give --placeholder or a subject "
            "in bundle.json"
        )
    return f"<{name}>"


def load(
    plans: Sequence[Plan],
    endings: Endings,
    *,
    seed: int | None,
    num_vectors: int | None,
    config: "TrainConfig",
    fixed: Collection[str],
    is_finished: Callable[["Subject"], bool],
) -> Iterator["Subject"]:
    """Subjects with their pictures, loaded one by one; what cannot be loaded has failed.

    seed, num_vectors and config are those of bundles that do not say their own; seed None is 0.
    fixed: fields of the config in which bundles have no say. is_finished: says so of subjects that
    are to be skipped, or raises SubjectError or ArtifactError.
    """
    from dti_engine.bundles.loading import load_bundle
    from dti_engine.slots import Subject

    for plan in plans:
        try:
            bundle = load_bundle(plan.path, resolution=config.resolution)
        except SubjectError as error:
            endings.fail(plan.name, error)
            continue
        for warning in bundle.warnings:
            endings.warn(plan.name, str(warning))
        own = bundle.description.training
        try:
            subject = Subject(
                plan.name,
                bundle.pictures,
                plan.placeholder,
                plan.initializer,
                (own.seed or 0) if seed is None else seed,
                num_vectors or own.vectors,
                config=_own_config(config, bundle.description, fixed),
            )
            if is_finished(subject):
                endings.skip(plan.name)
                continue
        except (SubjectError, ArtifactError) as error:
            endings.fail(plan.name, error)
            continue
        yield subject


def _own_config(
    config: "TrainConfig", said: "Description", fixed: Collection[str]
) -> "TrainConfig":
    """The config as the bundle changes it. Raises: SubjectError if the changes contradict it."""
    own = said.training.changes() | ({"captions": said.kind} if said.kind else {})
    try:
        return config.changed(**{name: own[name] for name in own.keys() - set(fixed)})
    except ConfigurationError as error:
        raise SubjectError(f"bundle.json asks for what this run cannot do: {error}") from error
