"""The specification of an engine, in plain values that can be sent to another machine."""

from pydantic import Field

from services.contracts.jobs import Label, WireModel
from services.contracts.models import ServedModel


class EngineSpec(WireModel):
    """The specification of an engine. Secrets and credentials are in its environment."""

    store: str = Field(description="URL of the store")
    name: Label = Field(description="name of the served model")
    model: ServedModel
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of torch; None: its own number"
    )
    continuous: bool = Field(
        default=True, description="whether images join running batches (continuous batching)"
    )
