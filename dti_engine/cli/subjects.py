"""Bundles on the command line, planned and loaded as subjects."""

import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.cli.summary import RunSummary
from dti_engine.domains import ModelDomain, domain_of
from dti_engine.errors import (
    ArtifactError,
    ConfigurationError,
    DTIError,
    InvalidBundleError,
    SubjectError,
    TokenError,
)

if TYPE_CHECKING:
    from dti_engine.config import TrainConfig
    from dti_engine.images.bundles.bundle import Bundle
    from dti_engine.images.bundles.schema import BundleDescription
    from dti_engine.images.bundles.sidecars import SubjectWords
    from dti_engine.subject import Subject


@dataclass(frozen=True)
class SubjectPlan:
    """A bundle that is loaded as a subject when a slot is free."""

    path: Path
    name: str
    """Of the subject and its file."""
    placeholder: str
    initializer: str
    num_vectors: int | None
    """The number that bundle.json requests."""

    @property
    def words(self) -> "SubjectWords":
        """The words by which captions beside images may name the subject."""
        from dti_engine.images.bundles.sidecars import SubjectWords

        return SubjectWords.of([self.placeholder], [self.initializer])


@dataclass(frozen=True)
class SubjectPlans:
    """The subjects of a run, and the bundles that cannot become one."""

    subjects: Sequence[SubjectPlan]
    refused: Mapping[str, DTIError]
    """The reason for each, by name."""

    @property
    def names(self) -> list[str]:
        """Names of all bundles."""
        return [*self.refused, *(plan.name for plan in self.subjects)]


@dataclass(frozen=True)
class SubjectDefaults:
    """The command line's settings for every subject; bundles may say their own, except `fixed`."""

    seed: int | None
    """None: the bundle's, or 0."""
    num_vectors: int | None
    config: "TrainConfig"
    fixed: Collection[str]
    """Fields of the config that bundles cannot change."""
    domain: ModelDomain | None = None
    """None: nothing is known of the model, so nothing is refused."""
    force: bool = False
    """Whether subjects outside of the domain are trained all the same."""


def plan_subjects(
    paths: Sequence[Path], placeholder: str | None, initializers: Sequence[str]
) -> SubjectPlans:
    """Return one plan per bundle, by the options, else by its bundle.json, else by its file name.

    Args:
        paths: bundles, and folders of bundles.
        placeholder: the name of the token of a single bundle.
        initializers: none, one for all bundles, or one per bundle.

    Raises: InvalidBundleError if a path does not exist; ConfigurationError if the numbers of names
        or words and bundles do not fit; TokenError if two bundles would get one name; the first
        bundle's error if all are refused.
    """
    from dti_engine.images.bundles.paths import expand_paths

    paths = expand_paths(paths)
    if missing := [path for path in paths if not path.exists()]:
        raise InvalidBundleError(
            f"{str(missing[0])!r} does not exist; give a folder, zip or tar of images, or one image"
        )
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
    plans, refused, names = list[SubjectPlan](), dict[str, DTIError](), Counter[str]()
    for index, path in enumerate(paths):
        try:
            plan = _plan_subject(path, placeholder, words[index] if words else None)
        except (ConfigurationError, SubjectError) as error:
            name = placeholder_of(path, None).strip("<>")
            refused[name] = error
        else:
            plans.append(plan)
            name = plan.name
        # A refused bundle counts too: it may be repaired, and its token would then have that name.
        names[name] += 1
    if repeated := [name for name, count in names.items() if count > 1]:
        raise TokenError(
            f"several bundles would become {', '.join(sorted(repeated)):.200}; rename all but one"
        )
    if not plans:
        raise next(iter(refused.values()))
    return SubjectPlans(plans, refused)


def _plan_subject(path: Path, placeholder: str | None, initializer: str | None) -> SubjectPlan:
    """Plan one bundle.

    Raises: InvalidBundleError if bundle.json is refused; ConfigurationError if nothing names the
        initializer.
    """
    from dti_engine.images.bundles.bundle import load_bundle, read_description

    description = read_description(path)
    placeholder = placeholder or placeholder_of(path, description)
    initializer = initializer or description.initializer
    if initializer is None:
        load_bundle(path)  # a bundle that is refused for another reason raises that one
        raise ConfigurationError(
            f"what is in {str(path)!r}? Give --initializer and the nearest common word, such "
            'as dog, or put bundle.json there, with {"initializer": "dog"}'
        )
    name = description.subject or placeholder.strip("<>")
    return SubjectPlan(path, name, placeholder, initializer, description.training.vectors)


def placeholder_of(path: Path, description: "BundleDescription | None") -> str:
    """Return the placeholder that bundle.json names, or one from the file name.

    `My Dog (2).zip` becomes `<my-dog-2>`, and kohya's `10_sks dog` becomes `<sks-dog>`.

    Raises: TokenError if the file name has no letters or digits.
    """
    from dti_engine.images.bundles.archives import bare_name
    from dti_engine.images.bundles.layouts import repeats_words

    if description and (description.placeholder or description.subject):
        return description.placeholder or f"<{description.subject}>"
    name = bare_name(path)
    if words := repeats_words(name):
        name = words[0]
    name = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:63]
    if not name:
        raise TokenError(
            f"no name can be made of {str(path)!r}; rename it, or give --placeholder or a subject "
            "in bundle.json"
        )
    return f"<{name}>"


def load_subjects(
    plans: Sequence[SubjectPlan],
    summary: RunSummary,
    defaults: SubjectDefaults,
    *,
    is_finished: Callable[["Subject"], bool],
) -> Iterator["Subject"]:
    """Yield subjects with their images, one at a time; a bundle that cannot be loaded has failed.

    `is_finished` tells subjects to skip, and may raise SubjectError or ArtifactError.
    """
    for plan, loading in _prefetch(plans, defaults.config.resolution):
        if summary.checkpoints.stop_requested:
            return
        try:
            bundle = loading.result()
            for warning in bundle.warnings:
                summary.warn(plan.name, str(warning))
            subject = _subject(plan, bundle, defaults)
            for objection in subject.forced:
                summary.warn(plan.name, f"forced: {objection}")
            if is_finished(subject):
                summary.skip(plan.name)
                continue
        except (SubjectError, ArtifactError) as error:
            summary.fail(plan.name, error)
            continue
        yield subject


def require_domain(plans: SubjectPlans, model: str) -> None:
    """Refuse a run that the model cannot learn, before anything is written.

    The function looks at the first bundle and at all initializers. Other bundles are judged when
    they are loaded, and so is a bundle that is refused for another reason.

    Raises:
        SubjectError: The first bundle has photographs that the model does not learn, or the model
            knows none of the initializers.
    """
    from dti_engine.images.bundles.bundle import load_bundle

    domain = domain_of(model)
    if domain is None or domain.learns_photographs or not plans.subjects:
        return
    first = plans.subjects[0]
    try:
        bundle = load_bundle(first.path)
    except SubjectError:
        return
    if problem := domain.image_problem(bundle.images):
        raise SubjectError(f"{first.name}: {problem}")
    unknown = [
        problem for plan in plans.subjects if (problem := domain.word_problem(plan.initializer))
    ]
    if len(unknown) == len(plans.subjects):
        raise SubjectError(f"{first.name}: {unknown[0]}")


def _subject(plan: SubjectPlan, bundle: "Bundle", defaults: SubjectDefaults) -> "Subject":
    from dti_engine.subject import Subject  # loads torch

    own = bundle.description.training
    problem = defaults.domain.image_problem(bundle.images) if defaults.domain else None
    if problem and not defaults.force:
        raise SubjectError(problem)
    return Subject(
        plan.name,
        bundle.images,
        plan.placeholder,
        plan.initializer,
        (own.seed or 0) if defaults.seed is None else defaults.seed,
        defaults.num_vectors or own.vectors,
        config=_own_config(bundle.description, defaults),
        forced=(problem,) if problem else (),
    )


def _prefetch(
    plans: Sequence[SubjectPlan], resolution: int
) -> Iterator[tuple[SubjectPlan, Future["Bundle"]]]:
    """Yield plans and their bundles, the next of which loads meanwhile.

    A slot that is free would otherwise wait for files.
    """
    from dti_engine.images.bundles.bundle import load_bundle

    pool = ThreadPoolExecutor(max_workers=1)
    loading: deque[tuple[SubjectPlan, Future[Bundle]]] = deque()
    try:
        for plan in plans:
            future = pool.submit(load_bundle, plan.path, resolution=resolution, words=plan.words)
            loading.append((plan, future))
            # One bundle ahead and no more: the decoded images of many are larger than all else
            # here.
            if len(loading) > 1:
                yield loading.popleft()
        yield from loading
    finally:
        pool.shutdown(cancel_futures=True)


def _own_config(description: "BundleDescription", defaults: SubjectDefaults) -> "TrainConfig":
    """Return the config with the bundle's changes. Raises: SubjectError if they contradict it."""
    own = description.training.changes()
    if description.kind:
        own["captions"] = description.kind
    try:
        return defaults.config.changed(
            **{name: own[name] for name in own.keys() - set(defaults.fixed)}
        )
    except ConfigurationError as error:
        raise SubjectError(f"bundle.json asks for what this run cannot do: {error}") from error
