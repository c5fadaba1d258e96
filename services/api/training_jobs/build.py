"""Builds the JobRequest of a training job from a request body.

Everything that the request leaves open is decided here, and every error that can be known before a
worker runs is reported with its place in the request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from dti_engine.config import TrainConfig
from dti_engine.domains import domain_of
from dti_engine.errors import ConfigurationError
from dti_engine.recipes import recipe
from services.api import order_limits
from services.api.problems import invalid_request
from services.api.request_body import parse_body
from services.api.training_jobs.schemas import Subject, TrainingJobRequest
from services.auth.authenticator import Principal
from services.contracts.cost import Cost
from services.contracts.jobs import MAX_ITEMS, JobItem, JobRequest
from services.contracts.models import ServedModel, ServedModels
from services.contracts.training import TrainingJobSpec, batch_of
from services.errors import LargeUploadError, UnknownUploadError, UnsafeUrlError
from services.ledger import uploads
from services.ledger.ledger import Gather
from services.settings import ApiSettings
from services.storage.interface import Store
from services.webhooks.targets import WebhookSettings, WebhookTarget

_MAX_ERRORS = 100
"""The number of errors after which no more subjects are checked."""

_MAX_LINE_BYTES = 2**18
"""The largest line of a manifest, which is more than a subject can have."""

_MAX_LOOKUPS = 1000
"""Above this number of digests it is faster to list all uploads than to look up each one."""


@dataclass(frozen=True, slots=True)
class BuiltTrainingJob:
    """A valid training job."""

    request: JobRequest
    subjects: Sequence[Subject]
    model: str
    recipe: str
    config: TrainConfig

    @property
    def uploads(self) -> list[str]:
        """The digests of all files that the job needs, each once."""
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


def parse_training_job(body: bytes) -> TrainingJobRequest:
    """Parse a request body in strict mode.

    Call this off the event loop, because ten thousand subjects take a while.

    Raises:
        RequestValidationError: The body is not valid.
    """
    return parse_body(TrainingJobRequest, body)


def build_training_job(
    store: Store,
    principal: Principal,
    request: TrainingJobRequest,
    served_models: ServedModels,
    settings: ApiSettings,
) -> BuiltTrainingJob:
    """Build a training job.

    Raises:
        RequestValidationError: The request is not valid.
        DamagedUploadError: The manifest's bytes do not have its digest.
        UnavailableError: The store does not answer.
    """
    name = choose_model(request.model, served_models)
    model = served_models[name]
    recipe_name, config = _config(request, name, model)
    if request.webhook:
        check_webhook(request.webhook.url, allow_private=settings.allow_private_webhooks)
    subjects = request.subjects or _read_manifest(store, principal.tenant, request, settings)
    place = "manifest" if request.subjects is None else "subjects"
    # By the store's clock, which workers use as well when they check consents again.
    cost = _check_subjects(subjects, config, name, model, store.now(), place)
    order_limits.check_tenant_limits(principal.limits, cost, ("body", place))
    spec = TrainingJobSpec(
        model=name,
        recipe=recipe_name,
        config=config.model_dump(mode="json"),
        validation_images=request.validation_images,
        webhook=request.webhook.url if request.webhook else None,
        photographs=_photographs(model, force=request.force),
        max_steps=model.order_limits().max_training_steps,
        manifest=request.manifest if request.subjects is None else None,
    )
    try:
        job = JobRequest(
            kind="training",
            pool=name,
            batch=batch_of(config),
            items=tuple(JobItem(name=subject.id, work=subject.work) for subject in subjects),
            shared=spec.model_dump(mode="json"),
            tags=request.tags,
            max_attempts=request.max_attempts,
        )
    except ValidationError as error:
        raise invalid_request(("body", place), error.errors()[0]["msg"]) from error
    order_limits.check_stored_bytes(principal.limits, job, ("body", place))
    return BuiltTrainingJob(job, subjects, name, recipe_name, config)


def missing_uploads(
    store: Store, tenant: str, built: BuiltTrainingJob, gather: Gather
) -> list[str]:
    """Return the digests of the job's files that were not uploaded."""
    digests = built.uploads
    if len(digests) <= _MAX_LOOKUPS:
        found = gather(lambda sha256: uploads.find(store, tenant, sha256) is not None, digests)
        return [sha256 for sha256, exists in zip(digests, found, strict=True) if not exists]
    present: set[str] = set()
    folder = uploads.folder(tenant)
    after: str | None = ""
    while after is not None:
        page = store.list(folder, after=after)
        present |= {head.key.removeprefix(folder) for head in page.objects}
        after = page.next
    return [sha256 for sha256 in digests if sha256 not in present]


def choose_model(name: str | None, served_models: ServedModels) -> str:
    """Return the model that a request names, or else the first one.

    Raises:
        RequestValidationError: There is no such model.
    """
    if name is not None and name not in served_models:
        raise invalid_request(
            ("body", "model"), f"there is no model {name!r}: there are {', '.join(served_models)}"
        )
    return name or next(iter(served_models))


def _config(
    request: TrainingJobRequest, model_name: str, model: ServedModel
) -> tuple[str, TrainConfig]:
    name = request.recipe or model.recipe
    try:
        config = recipe(name)
    except ConfigurationError as error:
        raise invalid_request(("body", "recipe"), str(error)) from error
    try:
        config = config.changed(**request.overrides)
    except ConfigurationError as error:
        raise invalid_request(("body", "overrides"), str(error)) from error
    if reason := order_limits.training_reason(model_name, model, config):
        raise invalid_request(("body", "overrides" if request.overrides else "recipe"), reason)
    return name, config


def _photographs(model: ServedModel, *, force: bool) -> Literal["learned", "refused", "forced"]:
    """Return what workers do with photographs: the API sees no images."""
    domain = domain_of(model.weights)
    if domain is None or domain.learns_photographs:
        return "learned"
    return "forced" if force else "refused"


def check_webhook(url: str, *, allow_private: bool) -> None:
    """Check that a webhook may be sent to the URL.

    Raises:
        RequestValidationError: The URL is not valid, or has a private address.
    """
    try:
        WebhookTarget.parse(
            url, WebhookSettings(allow_http=allow_private, allow_private=allow_private)
        )
    except UnsafeUrlError as error:
        raise invalid_request(("body", "webhook", "url"), str(error)) from error


def _read_manifest(
    store: Store, tenant: str, request: TrainingJobRequest, settings: ApiSettings
) -> Sequence[Subject]:
    assert request.manifest
    place = ("body", "manifest")
    try:
        body = uploads.read(store, tenant, request.manifest, max_bytes=settings.max_manifest_bytes)
    except (UnknownUploadError, LargeUploadError) as error:
        raise invalid_request(place, str(error)) from error
    lines = [(n, line) for n, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if not 1 <= len(lines) <= MAX_ITEMS:
        raise invalid_request(
            place,
            f"the manifest has {len(lines)} lines: give 1 to {MAX_ITEMS}, one subject per line",
        )
    subjects: list[Subject] = []
    errors: list[Any] = []
    for number, line in lines:
        if len(line) > _MAX_LINE_BYTES:
            reason = f"the line has {len(line)} bytes: a subject has at most {_MAX_LINE_BYTES}"
            errors.append(_error(("body", "manifest", number), reason))
            continue
        try:
            subjects.append(parse_body(Subject, line, prefix=("manifest", number)))
        except RequestValidationError as error:
            errors += map(_as_refused, error.errors())
        if len(errors) >= _MAX_ERRORS:
            break
    if errors:
        raise RequestValidationError(errors)
    return subjects


def _as_refused(error: Any) -> Mapping[str, Any]:
    """Return an error of a manifest, where malformed JSON is 422; in a body it is 400."""
    return {**error, "type": "refused"} if error["type"] == "json_invalid" else error


def _check_subjects(
    subjects: Sequence[Subject],
    config: TrainConfig,
    name: str,
    model: ServedModel,
    now: datetime,
    place: str,
) -> Cost:
    """Check consents and the subjects' own training settings; return the cost of them all."""
    errors: list[Any] = []
    domain = domain_of(model.weights)
    num_without_changes = sum(not subject.training.changes() for subject in subjects)
    cost = order_limits.training_cost(config, num_without_changes)
    for number, subject in enumerate(subjects):
        where = ("body", place, number if place == "subjects" else number + 1)
        if subject.consent and not subject.consent.holds(now):
            errors.append(_error((*where, "consent", "expires_at"), "this consent has expired"))
        if domain and (problem := domain.word_problem(subject.initializer or "")):
            errors.append(_error((*where, "initializer"), problem))
        if changes := subject.training.changes():
            try:
                own_config = config.changed(**changes)
            except ConfigurationError as error:
                errors.append(_error((*where, "training"), str(error)))
                continue
            if reason := order_limits.training_reason(name, model, own_config):
                errors.append(_error((*where, "training"), reason))
            cost += order_limits.training_cost(own_config)
        if len(errors) >= _MAX_ERRORS:
            break
    if errors:
        raise RequestValidationError(errors)
    return cost


def _error(place: tuple[str | int, ...], reason: str) -> Mapping[str, Any]:
    return {"loc": place, "msg": reason, "type": "refused"}
