"""/v1/models: the models that images are generated with and that subjects are trained for.

The form is OpenAI's, so that its clients can list the models; the fields `default`, `recipe` and
`config` are additions.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field, JsonValue

from dti_engine.recipes import recipe
from services.api import order_limits
from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal
from services.api.jobs.schemas import example
from services.api.middleware.openai_errors import OpenAIProblem
from services.api.openapi import problems
from services.api.shares import FairRoute
from services.auth.tenants import Limits
from services.contracts.models import ServedModels, find_model

router = APIRouter(
    prefix="/v1/models", dependencies=GUARDED, tags=["models"], route_class=FairRoute
)

_EXAMPLE: dict[str, Any] = {
    "id": "miniature",
    "object": "model",
    "created": 0,
    "owned_by": "dti",
    "default": True,
    "recipe": "miniature",
    "config": {"method": "dti", "steps": 200, "batch_size": 4, "resolution": 64},
    "limits": {
        "max_image_pixels": 16384,
        "max_image_steps": 150,
        "max_training_steps": 5000,
        "max_training_pixels": 131072,
        "max_order_pixel_steps": 100_000_000_000_000,
        "max_order_bytes": 100_000_000,
    },
}


class ModelResource(BaseModel):
    """A model that the service offers."""

    model_config = example(_EXAMPLE)

    id: str = Field(description="The model's name, as requests give it in `model`.")
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="Always 0: the time is not known.")
    owned_by: str = Field(default="dti", description="Always `dti`.")
    default: bool = Field(description="True if requests that name no model use this one.")
    recipe: str = Field(description="The recipe that training jobs use unless they name another.")
    config: dict[str, JsonValue] = Field(description="The training config of the recipe.")
    limits: dict[str, int] = Field(
        description="The largest orders that the service takes of you for this model: pixels and "
        "steps of an image; steps of a subject, and its pixels in one step, resolution squared x "
        "batch size; steps x pixels x batch size and stored bytes of a whole order."
    )


class ModelList(BaseModel):
    """The models that the service offers."""

    model_config = example({"object": "list", "data": [_EXAMPLE]})

    object: Literal["list"] = "list"
    data: list[ModelResource] = Field(description="The models; the first one is the default.")


@router.get("", summary="List the models", responses=problems(model=OpenAIProblem))
def list_models(principal: CurrentPrincipal, state: AppStateDep) -> ModelList:
    """List the models of all tenants in the form of OpenAI's `models.list`."""
    return ModelList(
        data=[_resource(name, state.models, principal.limits) for name in state.models]
    )


@router.get("/{model}", summary="Get a model", responses=problems(404, model=OpenAIProblem))
def get_model(
    principal: CurrentPrincipal,
    state: AppStateDep,
    model: Annotated[str, Path(description="The model's name.", examples=["miniature"])],
) -> ModelResource:
    """Return a model in the form of OpenAI's `models.retrieve`."""
    find_model(model, state.models)
    return _resource(model, state.models, principal.limits)


def _resource(name: str, models: ServedModels, limits: Limits) -> ModelResource:
    return ModelResource(
        id=name,
        default=name == next(iter(models)),
        recipe=models[name].recipe,
        config=recipe(models[name].recipe).model_dump(mode="json"),
        limits=order_limits.model_limits_of(models[name], limits),
    )
