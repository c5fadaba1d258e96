"""Of what a client has said, the job as the ledger keeps it: all that is left open is settled here,
and all that can be known to be wrong is refused, with its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.recipes import recipe
from services.api.problems import refusal
from services.api.training_jobs.schemas import Subject, TrainingJobRequest
from services.contracts.jobs import MAX_ITEMS, Item, JobRequest
from services.contracts.models import ServedModel, ServedModels
from services.contracts.training import TrainingJobSpec, batch_of
from services.errors import LargeUploadError, UnknownUploadError, UnsafeUrlError
from services.ledger import uploads
from services.ledger.ledger import Gather
from services.settings import ApiSettings
from services.storage.interface import Store
from services.webhooks.targets import WebhookSettings, WebhookTarget

_ENOUGH = 100
"""Findings, after which no more subjects are looked at."""

_LISTED = 1000
"""Digests beyond which a tenant's uploads are listed, not asked for one by one."""


@dataclass(frozen=True, slots=True)
class BuiltTrainingJob:
    """A job that could be submitted."""

    request: JobRequest
    subjects: Sequence[Subject]
    model: str
    recipe: str
    config: TrainConfig

    @property
    def uploads(self) -> list[str]:
        """Digests of all that it needs, each once."""
        return list(
            dict.fromkeys(
                sha256
                for subject in self.subjects
                for sha256 in (
                    [subject.bundle]
                    if subject.bundle
                    else [image.sha256 for image in subject.images]
                )
            )
        )


def parse_order(body: bytes) -> TrainingJobRequest:
    """Raises: RequestValidationError. By pydantic's own parser, of JSON in its own types alone, and
    not on the event loop: ten thousand subjects take a while.
    """
    try:
        return TrainingJobRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        findings = error.errors()
        if len(findings) > 1:  # Subjects that are wrong are not also too few.
            findings = [one for one in findings if one["type"] != "too_short" or one["input"] == []]
        raise RequestValidationError([_placed(one, ()) for one in findings]) from error


def build(
    store: Store,
    tenant: str,
    order: TrainingJobRequest,
    served_models: ServedModels,
    settings: ApiSettings,
) -> BuiltTrainingJob:
    """Raises: RequestValidationError; DamagedUploadError of a manifest; UnavailableError."""
    name, served_model = _model(order, served_models)
    recipe_name, config = _config(order, served_model)
    if order.webhook:
        check_webhook(order.webhook.url, private=settings.allow_private_webhooks)
    subjects = order.subjects or _read_manifest(store, tenant, order, settings)
    place = "manifest" if order.subjects is None else "subjects"
    _check_subjects(subjects, config, store.now(), place)
    training = TrainingJobSpec(
        model=name,
        recipe=recipe_name,
        config=config.model_dump(mode="json"),
        validation_images=order.validation_images,
        webhook=order.webhook.url if order.webhook else None,
    )
    try:
        request = JobRequest(
            kind="training",
            pool=name,
            batch=batch_of(config),
            items=tuple(Item(name=subject.id, work=subject.work) for subject in subjects),
            shared=training.model_dump(mode="json"),
            tags=order.tags,
            max_attempts=order.max_attempts,
        )
    except ValidationError as error:
        raise refusal(("body", place), error.errors()[0]["msg"]) from error
    return BuiltTrainingJob(request, subjects, name, recipe_name, config)


def missing_uploads(
    store: Store, tenant: str, built: BuiltTrainingJob, gather: Gather
) -> list[str]:
    """Digests that nothing was uploaded under."""
    digests = built.uploads
    if len(digests) <= _LISTED:
        found = gather(lambda sha256: uploads.find(store, tenant, sha256) is not None, digests)
        return [sha256 for sha256, there in zip(digests, found, strict=True) if not there]
    present: set[str] = set()
    folder = uploads.folder(tenant)
    after: str | None = ""
    while after is not None:
        page = store.list(folder, after=after)
        present |= {head.key.removeprefix(folder) for head in page.objects}
        after = page.next
    return [sha256 for sha256 in digests if sha256 not in present]


def _model(order: TrainingJobRequest, served_models: ServedModels) -> tuple[str, ServedModel]:
    name = order.model or next(iter(served_models))
    if name not in served_models:
        raise refusal(("body", "model"), f"no model {name!r}; there are {', '.join(served_models)}")
    return name, served_models[name]


def _config(order: TrainingJobRequest, served_model: ServedModel) -> tuple[str, TrainConfig]:
    name = order.recipe or served_model.recipe
    try:
        config = recipe(name)
    except ConfigurationError as error:
        raise refusal(("body", "recipe"), str(error)) from error
    try:
        return name, config.changed(**order.overrides)
    except ConfigurationError as error:
        raise refusal(("body", "overrides"), str(error)) from error


def check_webhook(url: str, *, private: bool) -> None:
    """Raises: RequestValidationError."""
    try:
        WebhookTarget.parse(url, WebhookSettings(allow_http=private, allow_private=private))
    except UnsafeUrlError as error:
        raise refusal(("body", "webhook", "url"), str(error)) from error


def _read_manifest(
    store: Store, tenant: str, order: TrainingJobRequest, settings: ApiSettings
) -> Sequence[Subject]:
    assert order.manifest
    place = ("body", "manifest")
    try:
        body = uploads.read(store, tenant, order.manifest, max_bytes=settings.max_manifest_bytes)
    except (UnknownUploadError, LargeUploadError) as error:
        raise refusal(place, str(error)) from error
    lines = [(n, line) for n, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if not 1 <= len(lines) <= MAX_ITEMS:
        raise refusal(place, f"it has {len(lines)} lines: give 1 to {MAX_ITEMS}, each a subject")
    subjects: list[Subject] = []
    findings: list[Any] = []
    for number, line in lines:
        try:
            subjects.append(Subject.model_validate_json(line, strict=True))
        except ValidationError as error:
            findings += [_placed(found, ("manifest", number)) for found in error.errors()]
        if len(findings) >= _ENOUGH:
            break
    if findings:
        raise RequestValidationError(findings)
    return subjects


def _placed(found: Any, before: tuple[str | int, ...]) -> Mapping[str, Any]:
    """A finding of pydantic's, with its place in the request. Within a line of a manifest, JSON
    that is none is one thing that is wrong among others.
    """
    kind = "refused" if before and found["type"] == "json_invalid" else found["type"]
    return {**found, "type": kind, "loc": ("body", *before, *found["loc"])}


def _check_subjects(
    subjects: Sequence[Subject], config: TrainConfig, now: datetime, place: str
) -> None:
    """What the subjects say for themselves is allowed beside what the job says."""
    findings: list[Any] = []
    for number, subject in enumerate(subjects):
        where = ("body", place, number if place == "subjects" else number + 1)
        if subject.consent and not subject.consent.holds(now):
            findings.append(_finding((*where, "consent", "expires_at"), "this consent has expired"))
        if changes := subject.training.changes():
            try:
                config.changed(**changes)
            except ConfigurationError as error:
                findings.append(_finding((*where, "training"), str(error)))
        if len(findings) >= _ENOUGH:
            break
    if findings:
        raise RequestValidationError(findings)


def _finding(place: tuple[str | int, ...], reason: str) -> Mapping[str, Any]:
    return {"loc": place, "msg": reason, "type": "refused"}
