"""Loading of a claimed subject: its images are fetched, checked and decoded."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from PIL import Image
from pydantic import ValidationError

from dti_engine.config import TrainConfig
from dti_engine.domains import photograph_problem
from dti_engine.errors import CheckpointError, ConfigurationError, InvalidBundleError, SubjectError
from dti_engine.images.bundles.archives import OpenArchive
from dti_engine.images.bundles.bundle import Bundle, check_bundle
from dti_engine.images.bundles.members import DEFAULT_LIMITS
from dti_engine.images.bundles.schema import BundleDescription
from dti_engine.images.bundles.sidecars import SubjectWords
from dti_engine.subject import Subject
from dti_engine.training.checkpoint import Checkpoint
from services.contracts.training import TrainingItem, TrainingJobSpec, default_placeholder
from services.ledger import uploads
from services.ledger.attempts import Attempt
from services.storage.interface import Store

_REFERENCE_PX = 512  # scorers look at less
_ZIP_MAGIC = b"PK"
_MAX_ERRORS_SHOWN = 8  # in the reason of a failure


@dataclass(frozen=True, eq=False)
class LoadedSubject:
    """A subject that can be given a slot."""

    attempt: Attempt
    job: TrainingJobSpec
    config: TrainConfig
    """The job's, which decides the shape of the batch; the subject's own is in `subject`."""
    subject: Subject
    checkpoint: Checkpoint | None
    """The latest training state of an earlier attempt."""
    references: Sequence[Image.Image]
    """Small copies of its images, which scorers compare the token's images with."""
    class_noun: str | None
    warnings: tuple[str, ...]

    @property
    def tenant(self) -> str:
        """The tenant whose subject it is."""
        return self.attempt.keys.tenant


def read_job(attempt: Attempt) -> tuple[TrainingJobSpec, TrainConfig]:
    """Return what holds for the whole job. Raises: SubjectError if this version cannot read it."""
    try:
        job = TrainingJobSpec.model_validate(attempt.shared)
        return job, TrainConfig.parse(job.config)
    except (ValidationError, ConfigurationError) as error:
        raise SubjectError(f"the job asks for what this version cannot do: {error}") from error


def load_subject(store: Store, attempt: Attempt, now: datetime) -> LoadedSubject:
    """Fetch, check and decode a subject.

    Raises: SubjectError, with all that is wrong with it, if it can never be trained;
    UnknownUploadError, LargeUploadError, DamagedUploadError alike; UnavailableError if the store
    does not answer.
    """
    job, config = read_job(attempt)
    try:
        item = TrainingItem.model_validate(attempt.item.work)
    except ValidationError as error:
        raise SubjectError(f"the subject's description is not valid: {error}") from error
    bundle = _read_bundle(store, attempt.keys.tenant, item, config.resolution)
    _require_all_images(bundle)
    description = bundle.description
    _require_consent(item, description, now)
    warnings = [str(warning) for warning in bundle.warnings]
    checkpoint = None
    if attempt.resume_from:
        try:
            checkpoint = Checkpoint.from_bytes(attempt.resume_from.payload)
        except CheckpointError as error:
            warnings.append(f"restarted from the first step: its checkpoint is unusable: {error}")
    return LoadedSubject(
        attempt=attempt,
        job=job,
        config=config,
        subject=_subject(attempt, item, bundle, job, config),
        checkpoint=checkpoint,
        references=[_thumbnail(image.image) for image in bundle.images]
        if job.validation_images
        else (),
        class_noun=description.class_noun,
        warnings=tuple(warnings),
    )


def _read_bundle(store: Store, tenant: str, item: TrainingItem, resolution: int) -> Bundle:
    words = SubjectWords.of([item.placeholder], [item.initializer])
    if not item.bundle:
        images = _read_images(store, tenant, item)
        return check_bundle(images, resolution=resolution, words=words)
    data = uploads.read(store, tenant, item.bundle, max_bytes=DEFAULT_LIMITS.max_archive_bytes)
    # Without a name: nothing of it is left when this process is killed.
    with tempfile.TemporaryFile(prefix="dti-") as file:
        file.write(data)
        file.flush()
        # By its first bytes: an upload has a digest, and no name.
        form = "zip" if data.startswith(_ZIP_MAGIC) else "tar"
        return check_bundle(OpenArchive(file, form), resolution=resolution, words=words)


def _read_images(store: Store, tenant: str, item: TrainingItem) -> dict[str, bytes]:
    left = DEFAULT_LIMITS.max_unpacked_bytes
    files = dict[str, bytes]()
    for image in item.images:
        limit = min(left, DEFAULT_LIMITS.image.max_bytes)
        files[image.name] = uploads.read(store, tenant, image.sha256, max_bytes=limit)
        left -= len(files[image.name])
    return files


def _require_all_images(bundle: Bundle) -> None:
    # A subject is learned from all its images or not at all: a token that was learned from some of
    # them would look like one that was learned from all.
    if not bundle.errors:
        return
    shown = "; ".join(str(error) for error in bundle.errors[:_MAX_ERRORS_SHOWN])
    more = len(bundle.errors) - _MAX_ERRORS_SHOWN
    raise InvalidBundleError(f"refused: {shown}" + (f"; and {more} more" if more > 0 else ""))


def _require_consent(item: TrainingItem, description: BundleDescription, now: datetime) -> None:
    # Checked again here: the API knows neither bundle.json nor when the training begins.
    if "person" not in (item.kind, description.kind):
        return
    if item.consent is None:
        raise SubjectError(
            "bundle.json says that it is a person, and there is no consent record: submit it with "
            "one, which says who attests consent and on what basis"
        )
    if not item.consent.holds(now):
        raise SubjectError(f"the consent to learn this person expired {item.consent.expires_at}")


def _subject(
    attempt: Attempt, item: TrainingItem, bundle: Bundle, job: TrainingJobSpec, config: TrainConfig
) -> Subject:
    description = bundle.description
    if not (initializer := item.initializer or description.initializer):
        raise SubjectError(
            "there is no initializer: give one, the nearest common word, such as dog, with the "
            "subject or in bundle.json"
        )
    overrides = description.training.changes() | item.training.changes()
    kind = item.kind or description.kind
    # The miniature has captions of its own, and knows no others.
    if kind and config.captions != "miniature":
        overrides["captions"] = kind
    try:
        own_config = config.changed(**overrides)
    except ConfigurationError as error:
        raise SubjectError(f"it asks for what this job cannot do: {error}") from error
    # Checked here, since the API does not read bundle.json, whose steps count as well.
    if job.max_steps is not None and own_config.steps > job.max_steps:
        raise SubjectError(
            f"it asks for {own_config.steps} steps, and the service takes at most {job.max_steps} "
            "for this model: give fewer in bundle.json"
        )
    if reason := own_config.incompatibility_with(config):
        raise SubjectError(f"it cannot be trained among the others of its job: {reason}")
    seed = item.training.seed if item.training.seed is not None else description.training.seed
    return Subject(
        # Unique in a batch, and the same for each attempt, so that checkpoints fit.
        id=f"{attempt.keys.job}.{attempt.item_ref.index}",
        images=bundle.images,
        placeholder=_placeholder(attempt, item, description),
        initializer=initializer,
        seed=seed or 0,
        num_vectors=item.training.vectors or description.training.vectors,
        config=own_config,
        forced=_objections(bundle, job),
    )


def _objections(bundle: Bundle, job: TrainingJobSpec) -> tuple[str, ...]:
    """Return what the job overrides. Raises: SubjectError if it has photographs and may not."""
    if job.photographs == "learned" or not bundle.shows_photographs:
        return ()
    problem = photograph_problem(job.model)
    if job.photographs == "refused":
        raise SubjectError(problem)
    return (problem,)


def _placeholder(attempt: Attempt, item: TrainingItem, description: BundleDescription) -> str:
    if placeholder := item.placeholder or description.placeholder:
        return placeholder
    if description.subject:
        return f"<{description.subject}>"
    if not (placeholder := default_placeholder(attempt.item.name)):
        raise SubjectError(
            f"no placeholder can be made of {attempt.item.name!r}: give one, such as <rex>"
        )
    return placeholder


def _thumbnail(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((_REFERENCE_PX, _REFERENCE_PX))
    return small
