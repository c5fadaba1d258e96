"""What goes into one step: samples of subjects, and blank ones where a slot is empty."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.encoder_inputs import PromptBatch
from dti_engine.prompts import tokenize
from dti_engine.views import Framing


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one step: B of one slot, or those of all slots in order."""

    latents: Tensor  # (B, C, h, w)
    noise: Tensor  # (B, C, h, w)
    u: Tensor  # (B,)
    weights: Tensor  # (B, 1, h, w), all ones without a mask: one shape for every mix of subjects
    framing: Tensor  # (B, 6) float32, see `views.Framing`
    prompts: PromptBatch

    @staticmethod
    def concat(parts: Sequence["Samples"]) -> "Samples":
        """One batch of all their samples, in order."""
        return Samples(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.noise for part in parts]),
            torch.cat([part.u for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.framing for part in parts]),
            PromptBatch.concat([part.prompts for part in parts]),
        )


def blank_samples(backbone: Backbone, config: TrainConfig) -> Samples:
    """What an empty slot puts into a step: the same shapes, no learned row, hence no gradient."""
    shape = backbone.latent_shape(config.resolution, config.resolution)
    zeros = torch.zeros(config.batch_size, *shape, device=backbone.device)
    prompts = tokenize([""] * len(zeros), backbone.text_encoders, [{}] * len(zeros))
    ones = torch.ones_like(zeros[:, :1])
    framing = Framing.whole(config.resolution, config.resolution)
    return Samples(
        zeros,
        zeros,
        zeros[:, 0, 0, 0],
        ones,
        torch.tensor([framing] * len(zeros), dtype=torch.float32, device=backbone.device),
        prompts.to(backbone.device),
    )
