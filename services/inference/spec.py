"""What an engine is told, in plain values that can be sent to another machine. Loads no torch."""

from pydantic import Field

from services.contracts.jobs import Label, WireModel
from services.contracts.models import ServedModel


class EngineSpec(WireModel):
    """Credentials and the secret are not in it: they are in its environment."""

    store: str = Field(description="URL")
    name: Label = Field(description="of the offer")
    model: ServedModel
    threads: int | None = Field(default=None, ge=1, description="of torch on a CPU; None: its own")
    joining: bool = Field(default=True, description="whether images join others under way")
