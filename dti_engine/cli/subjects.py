"""Bundles that become subjects."""

import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.cli.summary import Endings
from dti_engine.errors import ArtifactError, ConfigurationError, DTIError, SubjectError, TokenError

if TYPE_CHECKING:
    from dti_engine.config import TrainConfig
    from dti_engine.images.bundles.bundle import Bundle
    from dti_engine.images.bundles.schema import BundleDescription
    from dti_engine.subject import Subject


@dataclass(frozen=True)
class Plan:
    """A bundle that becomes a subject when a slot falls free."""

    path: Path
    name: str  # of the subject and its file
    placeholder: str
    initializer: str
    num_vectors: int | None  # that the bundle asks for


@dataclass(frozen=True)
class Plans:
    """What is to be done with each bundle."""

    subjects: Sequence[Plan]
    refused: Mapping[str, DTIError]  # name -> why it cannot be one

    @property
    def names(self) -> list[str]:
        """Of all of them."""
        return [*self.refused, *(each.name for each in self.subjects)]


def plan(paths: Sequence[Path], placeholder: str | None, initializers: Sequence[str]) -> Plans:
    """One plan per bundle, by what is said here, else by its bundle.json, else by its own name.

    paths: bundles, and folders of them.

    Raises: ConfigurationError if the numbers of names or words and bundles do not fit; TokenError
        if two bundles would get one name, or one gets none; if all are refused, why the first is.
    """
    from dti_engine.images.bundles.bundle import expand_paths

    paths = expand_paths(paths)
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
    plans, refused, names = list[Plan](), dict[str, DTIError](), Counter[str]()
    for index, path in enumerate(paths):
        try:
            made = _plan(path, placeholder, words[index] if words else None)
        except (ConfigurationError, SubjectError) as error:
            name = placeholder_of(path, None).strip("<>")
            refused[name] = error
        else:
            plans.append(made)
            name = made.name
        names[name] += 1
    if repeated := [name for name, count in names.items() if count > 1]:
        raise TokenError(
            f"several bundles would become {', '.join(sorted(repeated)):.200}; rename all but one"
        )
    if not plans:
        raise next(iter(refused.values()))
    return Plans(plans, refused)


def _plan(path: Path, placeholder: str | None, word: str | None) -> Plan:
    """Raises: InvalidBundleError if bundle.json is refused; ConfigurationError without a word."""
    from dti_engine.images.bundles.bundle import load_bundle, read_description

    said = read_description(path)
    placeholder = placeholder or placeholder_of(path, said)
    word = word or said.initializer
    if word is None:
        load_bundle(path)  # if bundle.json is there and refused, that is what is to be said
        raise ConfigurationError(
            f"what is in {str(path)!r}? Give --initializer and the nearest common word, such "
            'as dog, or put bundle.json there, with {"initializer": "dog"}'
        )
    name = said.subject or placeholder.strip("<>")
    return Plan(path, name, placeholder, word, said.training.vectors)


def placeholder_of(path: Path, said: "BundleDescription | None") -> str:
    """By what bundle.json says, or else by the name: `My Dog (2).zip` -> `<my-dog-2>`."""
    from dti_engine.images.bundles.archives import bare_name

    if said and (said.placeholder or said.subject):
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
    """Subjects with their images, loaded one by one; what cannot be loaded has failed.

    seed, num_vectors and config are those of bundles that do not say their own; seed None is 0.
    fixed: fields of the config in which bundles have no say. is_finished: says so of subjects that
    are to be skipped, or raises SubjectError or ArtifactError.
    """
    from dti_engine.subject import Subject

    for plan, loading in _ahead(plans, config.resolution):
        if endings.checkpoints.stop_requested:
            return
        try:
            bundle = loading.result()
        except SubjectError as error:
            endings.fail(plan.name, error)
            continue
        for warning in bundle.warnings:
            endings.warn(plan.name, str(warning))
        own = bundle.description.training
        try:
            subject = Subject(
                plan.name,
                bundle.images,
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


def _ahead(plans: Sequence[Plan], resolution: int) -> Iterator[tuple[Plan, Future["Bundle"]]]:
    """Plans and their bundles; while one is trained the next is loaded, so that its slot need not
    wait.
    """
    from dti_engine.images.bundles.bundle import load_bundle

    pool = ThreadPoolExecutor(max_workers=1)
    loading: deque[tuple[Plan, Future[Bundle]]] = deque()
    try:
        for plan in plans:
            loading.append((plan, pool.submit(load_bundle, plan.path, resolution=resolution)))
            if len(loading) > 1:
                yield loading.popleft()
        yield from loading
    finally:
        pool.shutdown(cancel_futures=True)


def _own_config(
    config: "TrainConfig", said: "BundleDescription", fixed: Collection[str]
) -> "TrainConfig":
    """The config as the bundle changes it. Raises: SubjectError if the changes contradict it."""
    own = said.training.changes() | ({"captions": said.kind} if said.kind else {})
    try:
        return config.changed(**{name: own[name] for name in own.keys() - set(fixed)})
    except ConfigurationError as error:
        raise SubjectError(f"bundle.json asks for what this run cannot do: {error}") from error
