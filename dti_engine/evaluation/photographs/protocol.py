"""How subjects are learned and painted, alike for all methods. Loads no torch."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dti_engine.config import TrainConfig, explain
from dti_engine.errors import ConfigurationError


class Protocol(BaseModel):
    """One evaluation, whatever its methods: they share photos, initializers, captions, draws,
    steps, batches and the noise that pictures start from.

    Source of the defaults: paper, section 4.1 and appendix D.1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    config: TrainConfig = Field(description="of DTI; TI takes `recipes.standard_ti` of it")
    num_training_seeds: int = Field(default=1, ge=1)
    first_training_seed: int = Field(default=42, ge=0, lt=2**32)
    num_image_seeds: int = Field(default=4, ge=1, description="0, 1, ...: the same in every prompt")
    image_steps: int = Field(ge=1, description="denoising steps of a picture")
    guidance: float = Field(ge=1)

    @classmethod
    def of(cls, config: TrainConfig, *, is_flow: bool, changes: Mapping[str, Any]) -> Self:
        """The paper's, changed as told: DDIM with 50 steps, flow models by Euler's with 20.

        Guidance is that of the SDXL and SANA pipelines, which the paper's code leaves as it is.

        Raises: ConfigurationError if a change is not allowed.
        """
        painting = (
            {"image_steps": 20, "guidance": 4.5}
            if is_flow
            else {
                "image_steps": 50,
                "guidance": 5.0,
            }
        )
        try:
            return cls.model_validate({"config": config} | painting | dict(changes))
        except ValidationError as error:
            raise ConfigurationError(f"evaluation refused: {explain(error, cls)}") from error

    def training_seed(self, number: int) -> int:
        """Of the training `number`, counted from 0; the same for all subjects, as in the paper."""
        return self.first_training_seed + number
