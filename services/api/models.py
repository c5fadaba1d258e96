"""/v1/models: those that generate, as OpenAI's clients ask for them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal
from services.api.jobs.schemas import example
from services.api.middleware.openai_errors import OpenAIProblem
from services.api.openapi import problems
from services.contracts.models import find_model

router = APIRouter(prefix="/v1/models", dependencies=GUARDED, tags=["images"])

_EXAMPLE: dict[str, Any] = {"id": "miniature", "object": "model", "created": 0, "owned_by": "dti"}


class ModelResource(BaseModel):
    """A model that is offered."""

    model_config = example(_EXAMPLE)

    id: str = Field(description="its name: `model` of images, and `backbone` of jobs")
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="seconds since 1970; 0: not known of any")
    owned_by: str = Field(default="dti", description="the same of all")


class ModelList(BaseModel):
    """All that are offered."""

    model_config = example({"object": "list", "data": [_EXAMPLE]})

    object: Literal["list"] = "list"
    data: list[ModelResource] = Field(description="the first is taken where none is named")


@router.get("", summary="List models, as OpenAI does", responses=problems(model=OpenAIProblem))
def list_models(asking: CurrentPrincipal, here: AppStateDep) -> ModelList:
    """The same for all tenants; `/v1/backbones` says more of each."""
    return ModelList(data=[ModelResource(id=name) for name in here.models])


@router.get(
    "/{model}", summary="See a model, as OpenAI does", responses=problems(404, model=OpenAIProblem)
)
def get_model(
    asking: CurrentPrincipal,
    here: AppStateDep,
    model: Annotated[str, Path(description="its name", examples=["miniature"])],
) -> ModelResource:
    """Whether it is offered."""
    find_model(model, here.models)
    return ModelResource(id=model)
