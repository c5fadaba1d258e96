"""/v1/training-jobs: the submission of a job, beside the routes that all jobs share."""

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from services.api.dependencies import AppState, AppStateDep, CurrentPrincipal, RawBody
from services.api.jobs import schemas
from services.api.jobs.orders import run_order
from services.api.jobs.routes import (
    IdempotencyKey,
    JobRoutes,
    submission_responses,
    submit_job,
)
from services.api.openapi import body_of
from services.api.training_jobs.build import (
    BuiltTrainingJob,
    build_training_job,
    missing_uploads,
    parse_training_job,
)
from services.api.training_jobs.schemas import TrainingJobRequest
from services.auth.authenticator import Principal
from services.ledger.queries import ItemView
from services.ledger.workers import ItemProgress


def _build_item(
    request: Request, state: AppState, tenant: str, job: str, view: ItemView, progress: ItemProgress
) -> schemas.Item:
    return schemas.Item.of(view, progress)


router = JobRoutes("training", schemas.ItemPage, schemas.ItemWithAttempts, _build_item).router()


@router.post(
    "",
    status_code=202,
    summary="Create a training job of 1 to 10,000 subjects",
    response_model=schemas.Job,
    response_description="The job is stored and queued; a repeated request returns the same job.",
    responses=submission_responses(schemas.DryRun),
    openapi_extra=body_of(TrainingJobRequest),
)
async def create_training_job(
    principal: CurrentPrincipal, state: AppStateDep, body: RawBody, key: IdempotencyKey
) -> Response:
    """Train a token for each of `subjects`, or for each line of an uploaded `manifest`.

    Files may be uploaded after the job is created, but before a worker reaches their subject; a dry
    run lists the missing ones.
    """
    return await run_order(
        state,
        principal.tenant,
        body,
        parse_training_job,
        lambda request: _create(state, principal, key, request),
        is_large=lambda request: request.manifest is not None,
    )


def _create(
    state: AppState, principal: Principal, key: str, request: TrainingJobRequest
) -> Response:
    job = build_training_job(state.ledger.store, principal, request, state.models, state.settings)
    if request.dry_run:
        return JSONResponse(_dry_run(state, principal.tenant, job).model_dump(mode="json"))
    return submit_job(state, principal, key, job.request, "subjects")


def _dry_run(state: AppState, tenant: str, job: BuiltTrainingJob) -> schemas.DryRun:
    missing = missing_uploads(state.ledger.store, tenant, job, state.ledger.gather)
    return schemas.DryRun(
        count=len(job.subjects),
        model=job.model,
        recipe=job.recipe,
        config=job.config.model_dump(mode="json"),
        steps=sum(subject.training.steps or job.config.steps for subject in job.subjects),
        missing=len(missing),
        learns_photographs=job.request.shared["photographs"] == "learned",
        missing_uploads=missing[:1000],
    )
