"""Metrics of a training step for each packed subject; they stay on the device until a flush."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from dti_engine.optim.embeddings import EmbeddingOptimizer, RowMetrics


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Metrics of one step of one subject, averaged over its rows (vectors and encoders)."""

    subject_id: str
    step: int  # the subject's own, from 1
    # Not compared, as two runs with the same numbers take different times.
    elapsed_s: float = field(compare=False)  # since the subject was added
    loss: float  # mean over the samples of this step; noisy, since each has another time
    fixed_loss: float  # on the fixed batch, at its last evaluation; comparable between steps
    prior_angle_rad: float  # from the prior mean mu, after the step
    step_angle_rad: float  # turned by the step
    norm: float  # of the embedding: constant m* in DTI, free in standard TI
    prior_ratio: float  # kappa / |g|: strength of the prior relative to the data
    gradient_norm: float  # |g| of the data loss
    weakest_gradient_norm: float  # the smallest |g| of any row

    def values(self) -> dict[str, float]:
        """Return every measured value by its name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}

    def failure(self) -> str | None:
        """Return why this step ends the subject and what to do about it, or None."""
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
        # Exactly zero, not small: a gradient of any other size is normalised to a full step, but a
        # row that the loss does not reach would be moved by the prior alone.
        if self.weakest_gradient_norm == 0:
            return (
                "the gradient of one of its vectors is exactly zero, so the images do not reach "
                "it; run the model in float32 or bfloat16, since float16 underflows"
            )
        # The step refuses a tangent gradient that is no more than rounding (`rsgd._is_step`). With
        # a prior this means that kappa mu, which is nearly radial at first, has swallowed the
        # gradient.
        if self.step_angle_rad == 0 and self.prior_ratio > 0:
            return (
                f"it does not move: the prior is {self.prior_ratio:.1e} times the gradient of the "
                "data, which is lost in its rounding; lower kappa"
            )
        return None


def tabulate(
    losses: Tensor,
    fixed_losses: Tensor,
    optimizers: Sequence[EmbeddingOptimizer],
    row_metrics: Sequence[RowMetrics],
) -> Tensor:
    """Return the fields of `StepMetrics` from `loss` on, for all K slots: one device read.

    Shapes: losses and fixed_losses (K,), one per slot; row_metrics, one per optimizer, of (K * V,)
    -> (K, 8). The values of an empty slot have no meaning.
    """

    def by_slot(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([each.unflatten(0, (len(losses), -1)) for each in values], dim=1)

    def mean(values: Sequence[Tensor]) -> Tensor:
        # `where`, not a product with the mask: an inactive row has kappa / 0, and NaN times zero is
        # NaN. An empty slot gives 0 / 0, which nothing reads.
        return torch.where(active, by_slot(values), 0).sum(dim=1) / active.sum(dim=1)

    active = by_slot([optimizer.active for optimizer in optimizers])  # (K, encoders * V)
    gradient_norms = [row.gradient_norm for row in row_metrics]
    # In the order of the fields of `StepMetrics`; `record` and the checkpoint rely on it.
    columns = [
        losses,
        fixed_losses,
        mean([row.prior_angle for row in row_metrics]),
        mean([row.step_angle for row in row_metrics]),
        mean([row.norm for row in row_metrics]),
        mean([row.prior_ratio for row in row_metrics]),
        mean(gradient_norms),
        torch.where(active, by_slot(gradient_norms), math.inf).amin(dim=1),
    ]
    return torch.stack(columns, dim=1)
