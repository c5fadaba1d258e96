"""/v1/backbones: the models that subjects can be learned for."""

from fastapi import APIRouter
from pydantic import BaseModel, Field, JsonValue

from dti_engine.recipes import recipe
from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal
from services.api.jobs.schemas import example
from services.api.openapi import problems

router = APIRouter(prefix="/v1/backbones", dependencies=GUARDED, tags=["backbones"])


class Backbone(BaseModel):
    """A model that is offered."""

    name: str
    default: bool = Field(description="whether jobs that name none are for it")
    recipe: str = Field(description="what its subjects are trained by, unless a job says otherwise")
    config: dict[str, JsonValue] = Field(description="the recipe, number by number")


class BackboneList(BaseModel):
    """All that are offered."""

    model_config = example(
        {
            "backbones": [
                {
                    "name": "miniature",
                    "default": True,
                    "recipe": "miniature",
                    "config": {"method": "dti", "steps": 200, "batch_size": 4, "resolution": 64},
                }
            ]
        }
    )

    backbones: list[Backbone]


@router.get("", summary="List the models that are offered", responses=problems())
def list_backbones(asking: CurrentPrincipal, here: AppStateDep) -> BackboneList:
    """The same for all tenants."""
    return BackboneList(
        backbones=[
            Backbone(
                name=name,
                default=number == 0,
                recipe=model.recipe,
                config=recipe(model.recipe).model_dump(mode="json"),
            )
            for number, (name, model) in enumerate(here.models.items())
        ]
    )
