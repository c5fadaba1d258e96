"""/v1/training-jobs: subjects to be learned."""

from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse

from services.api.dependencies import AppState, AppStateDep, CurrentPrincipal
from services.api.jobs import schemas as views
from services.api.jobs.routes import JobRoutes, Key, answers, submit
from services.api.jobs.schemas import Said
from services.api.openapi import body_of
from services.api.training_jobs.build import BuiltTrainingJob, build, missing_uploads, parse_order
from services.api.training_jobs.schemas import TrainingJobRequest
from services.ledger.queries import ItemView


def _show(
    request: Request, here: AppState, tenant: str, job: str, item: ItemView, said: Said
) -> views.Item:
    return views.Item.of(item, said)


router = JobRoutes("training", views.ItemPage, views.ItemWithAttempts, _show).router()


async def _body(request: Request) -> bytes:
    return await request.body()


@router.post(
    "",
    status_code=202,
    summary="Make a job of 1 to 10,000 subjects",
    response_model=views.Job,
    response_description="It is kept, and will be found by workers; once for all with this key.",
    responses=answers(views.DryRun),
    openapi_extra=body_of(TrainingJobRequest),
)
def create_training_job(
    asking: CurrentPrincipal, here: AppStateDep, body: Annotated[bytes, Depends(_body)], key: Key
) -> Response:
    """A job has either `subjects` or the digest of a `manifest`. Uploads may still follow, but have
    to be there when a worker comes to their subject; a dry run says which are missing.
    """
    order = parse_order(body)
    built = build(here.ledger.store, asking.tenant, order, here.models, here.settings)
    if order.dry_run:
        return JSONResponse(_dry_run(here, asking.tenant, built).model_dump(mode="json"))
    return submit(here, asking, key, built.request, "subjects")


def _dry_run(here: AppState, tenant: str, built: BuiltTrainingJob) -> views.DryRun:
    missing = missing_uploads(here.ledger.store, tenant, built, here.ledger.gather)
    return views.DryRun(
        count=len(built.subjects),
        model=built.model,
        recipe=built.recipe,
        config=built.config.model_dump(mode="json"),
        steps=sum(subject.training.steps or built.config.steps for subject in built.subjects),
        missing=len(missing),
        missing_uploads=missing[:1000],
    )
