"""A claimed subject made ready to be learned: its images fetched, judged and decoded."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from dti_engine.config import TrainConfig
from dti_engine.errors import CheckpointError, ConfigurationError, InvalidBundleError, SubjectError
from dti_engine.images.bundles.bundle import Bundle, check_bundle
from dti_engine.images.bundles.members import DEFAULT_LIMITS
from dti_engine.images.bundles.schema import BundleDescription
from dti_engine.subject import Subject
from dti_engine.training.checkpoint import Checkpoint
from services.contracts.training import TrainingItem, TrainingJobSpec
from services.ledger import uploads
from services.ledger.attempts import Attempt
from services.storage.interface import Store

_REFERENCE_SIDE = 512  # pixels; judges look at less
_MAGIC = ((b"PK", ".zip"), (b"\x1f\x8b", ".tar.gz"))
_MOST_REASONS = 8  # refused images that are named in the reason of a failure


@dataclass(frozen=True, eq=False)
class LoadedSubject:
    """A subject that can be seated."""

    attempt: Attempt
    order: TrainingJobSpec
    config: TrainConfig
    """That of the job, whose shape the batch has."""
    subject: Subject
    checkpoint: Checkpoint | None
    """Where an earlier attempt had got to."""
    references: Sequence[Image.Image]
    """Small copies of its images, to judge the token by."""
    class_noun: str | None
    warnings: tuple[str, ...]

    @property
    def tenant(self) -> str:
        return self.attempt.keys.tenant


def order_of(attempt: Attempt) -> tuple[TrainingJobSpec, TrainConfig]:
    """What holds for the whole job. Raises: SubjectError if this version cannot read it."""
    try:
        order = TrainingJobSpec.model_validate(attempt.shared)
        return order, TrainConfig.parse(order.config)
    except (ValidationError, ConfigurationError) as error:
        raise SubjectError(f"the job asks for what this version cannot do: {error}") from error


def prepare(store: Store, attempt: Attempt, now: datetime) -> LoadedSubject:
    """Fetch, judge and decode a subject.

    Raises: SubjectError, with all that is wrong with it, if it can never be trained;
    UnknownUploadError, LargeUploadError, DamagedUploadError alike; UnavailableError if the store
    does not answer.
    """
    order, config = order_of(attempt)
    try:
        work = TrainingItem.model_validate(attempt.item.work)
    except ValidationError as error:
        raise SubjectError(f"the subject is not described as it has to be: {error}") from error
    with tempfile.TemporaryDirectory(prefix="dti-") as folder:
        path = _fetched(store, attempt.keys.tenant, work, Path(folder))
        bundle = check_bundle(path, resolution=config.resolution)
    _require_all(bundle)
    said = bundle.description
    _require_consent(work, said, now)
    warnings = [str(each) for each in bundle.warnings]
    checkpoint = None
    if attempt.resume_from:
        try:
            checkpoint = Checkpoint.from_bytes(attempt.resume_from.payload)
        except CheckpointError as error:
            warnings.append(f"began afresh: its checkpoint cannot be used: {error}")
    return LoadedSubject(
        attempt=attempt,
        order=order,
        config=config,
        subject=_subject(attempt, work, bundle, config),
        checkpoint=checkpoint,
        references=[_small(subject_image.image) for subject_image in bundle.images]
        if order.validation_images
        else (),
        class_noun=said.class_noun,
        warnings=tuple(warnings),
    )


def _fetched(store: Store, tenant: str, work: TrainingItem, folder: Path) -> Path:
    if work.bundle:
        data = uploads.read(store, tenant, work.bundle, max_bytes=DEFAULT_LIMITS.max_archive_bytes)
        suffix = next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), ".tar")
        path = folder / f"bundle{suffix}"
        path.write_bytes(data)
        return path
    left = DEFAULT_LIMITS.max_unpacked_bytes
    for subject_image in work.images:
        most = min(left, DEFAULT_LIMITS.image.max_bytes)
        data = uploads.read(store, tenant, subject_image.sha256, max_bytes=most)
        (folder / subject_image.name).write_bytes(data)
        left -= len(data)
    return folder


def _require_all(bundle: Bundle) -> None:
    """A subject is learned from all its images, or not at all: the sender has to know."""
    if not bundle.errors:
        return
    shown = "; ".join(str(each) for each in bundle.errors[:_MOST_REASONS])
    more = len(bundle.errors) - _MOST_REASONS
    raise InvalidBundleError(f"refused: {shown}" + (f"; and {more} more" if more > 0 else ""))


def _require_consent(work: TrainingItem, said: BundleDescription, now: datetime) -> None:
    if "person" not in (work.kind, said.kind):
        return
    if work.consent is None:
        raise SubjectError(
            "bundle.json says that it is a person, and there is no consent record: submit it with "
            "one, which says who attests consent and on what basis"
        )
    if not work.consent.holds(now):
        raise SubjectError(f"the consent to learn this person expired {work.consent.expires_at}")


def _subject(attempt: Attempt, work: TrainingItem, bundle: Bundle, config: TrainConfig) -> Subject:
    said = bundle.description
    if not (initializer := work.initializer or said.initializer):
        raise SubjectError(
            "nothing says what it is: give an initializer, the nearest common word, such as dog, "
            "with the subject or in bundle.json"
        )
    own = said.training.changes() | work.training.changes()
    kind = work.kind or said.kind
    if kind and config.captions != "miniature":  # which knows no captions but its own
        own["captions"] = kind
    try:
        own_config = config.changed(**own)
    except ConfigurationError as error:
        raise SubjectError(f"it asks for what this job cannot do: {error}") from error
    if refusal := own_config.incompatibility_with(config):
        raise SubjectError(f"it cannot be trained among the others of its job: {refusal}")
    seed = work.training.seed if work.training.seed is not None else said.training.seed
    return Subject(
        # Unique in a batch, and the same for each attempt, so that checkpoints fit.
        id=f"{attempt.keys.job}.{attempt.item_ref.index}",
        images=bundle.images,
        placeholder=_placeholder(attempt, work, said),
        initializer=initializer,
        seed=seed or 0,
        num_vectors=work.training.vectors or said.training.vectors,
        config=own_config,
    )


def _placeholder(attempt: Attempt, work: TrainingItem, said: BundleDescription) -> str:
    if given := work.placeholder or said.placeholder:
        return given
    name = said.subject or re.sub(r"[^a-z0-9_-]+", "-", attempt.item.name.lower()).strip("-_")[:63]
    if not name:
        raise SubjectError(
            f"no placeholder can be made of {attempt.item.name!r}: give one, such as <rex>"
        )
    return f"<{name}>"


def _small(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((_REFERENCE_SIDE, _REFERENCE_SIDE))
    return small
