"""The specification of an engine, in plain values that can be sent to another machine."""

from pydantic import Field

from services.contracts.jobs import Label, WireModel
from services.contracts.models import EngineModel


class EngineSpec(WireModel):
    """The specification of an engine. Secrets and credentials are in its environment."""

    store: str = Field(description="URL of the store")
    name: Label = Field(description="name of the served model")
    model: EngineModel
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of torch; None: its own number"
    )
    version: str | None = Field(
        default=None, description="version of the code; None: the cluster is replaced with it"
    )
    continuous: bool = Field(
        default=True, description="whether images join running batches (continuous batching)"
    )
