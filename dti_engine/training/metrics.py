"""What a step did to each packed subject: figures that stay on the device until somebody asks."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from dti_engine.optim.embeddings import EmbeddingOptimizer, RowMetrics


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step of one subject. With several rows (vectors, encoders), figures are their means."""

    subject_id: str
    step: int  # the subject's own, from 1
    seconds: float = field(compare=False)  # since the subject was seated
    loss: float  # mean over the samples of this step; noisy, since they differ in time
    fixed_loss: float  # of the token on a fixed batch, when last looked at; steps compare by it
    prior_angle_rad: float  # from the prior mean mu, after the step
    step_angle_rad: float  # turned by the step
    norm: float  # of the embedding: m* all along in DTI, free in standard TI
    prior_ratio: float  # kappa / |g|: the prior beside the data
    gradient_norm: float  # |g| of the data loss
    weakest_gradient_norm: float  # the smallest |g| of a row

    def figures(self) -> dict[str, float]:
        """Everything measured, by name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}

    def failure(self) -> str | None:
        """Why this step ends the subject, and what to do; None for a good step."""
        if not math.isfinite(self.loss) or not math.isfinite(self.fixed_loss):
            return (
                f"its loss is {self.loss}, and {self.fixed_loss} on its fixed batch; look at its "
                "images, and run the model in float32 or bfloat16, since float16 overflows in "
                "some autoencoders"
            )
        if not math.isfinite(self.gradient_norm):
            return (
                f"the norm of its gradient is {self.gradient_norm}; run the model in float32 or "
                "bfloat16, since float16 overflows"
            )
        if self.weakest_gradient_norm == 0:
            return (
                "the gradient of one of its vectors is exactly zero, so the images do not reach "
                "it; run the model in float32 or bfloat16, since float16 underflows"
            )
        if self.step_angle_rad == 0 and self.prior_ratio > 0:
            return (
                f"it does not move: the prior is {self.prior_ratio:.1e} times the gradient of the "
                "data, which is lost in its rounding; lower kappa"
            )
        return None


def tabulate(
    losses: Tensor,
    fixed_losses: Tensor,
    learners: Sequence[EmbeddingOptimizer],
    rows: Sequence[RowMetrics],
) -> Tensor:
    """Return the figures of `StepMetrics` from `loss` on, for all K slots: one device read.

    Shapes: losses, fixed_losses (K,), one per slot; rows, one report per learner, of (K * V,)
    -> (K, 8). No meaning where a slot is empty.
    """

    def by_slot(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([each.unflatten(0, (len(losses), -1)) for each in values], dim=1)

    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.where(seated, by_slot(values), 0).sum(dim=1) / seated.sum(dim=1)

    seated = by_slot([learner.active for learner in learners])  # (K, encoders * V)
    gradient_norms = [row.gradient_norm for row in rows]
    figures = [
        losses,
        fixed_losses,
        mean([row.prior_angle for row in rows]),
        mean([row.step_angle for row in rows]),
        mean([row.norm for row in rows]),
        mean([row.prior_ratio for row in rows]),
        mean(gradient_norms),
        torch.where(seated, by_slot(gradient_norms), math.inf).amin(dim=1),
    ]
    return torch.stack(figures, dim=1)
