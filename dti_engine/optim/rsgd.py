"""Riemannian SGD on the sphere: the training step, in three forms that agree to rounding.

Every row v is a point on the unit sphere and takes its own step; rows never mix. With the gradient
g = dL/dv of the data loss, which contains the factor m* of the embedding m* v:

    g <- g - kappa mu              prior, on the raw gradient
    g <- g - <g, v> v              tangent projection
    g <- g / |g|                   or, with a `RunningNorm`, by a running root mean square of |g|
    v <- (v - lr g) / |v - lr g|   retraction

So one step turns v by atan(lr) radians, whatever the scale of the loss. **lr is an angle**: it is
never multiplied by the batch size, by accumulation steps or by the number of GPUs.

`reference_step` is the form to read: one row, composed of `sphere` and `vmf`. `vectorized_step_`
moves all rows by one pass of tensor operations, `rsgd_triton` by one kernel launch; `step_rows_`
selects by device. After one step from the same state they differ in no coordinate by more than
4 eps (1 + lr r), where r is the raw gradient's length over the tangent's, if |g|^2 is finite.

v, mu and the running norms are float32, or float64 in tests, whatever the dtype of the model.
Only the reference reads a value back from the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dti_engine.errors import ConfigurationError
from dti_engine.optim import sphere, vmf

_ROUNDING_UNITS = 16  # projecting a radial gradient leaves less than 16 eps of it, up to d = 8192


class RunningNorm(NamedTuple):
    """Running root mean square of |g|: a weighted sum of |g|^2 and the sum of its weights.

    Their quotient is Adam's bias-corrected mean, as the weights sum to 1 - beta2^t after t steps;
    kept per row, they count the steps of that row only. Both start at zero.

    Shapes: [rows], or [] for one row.
    """

    second_moment: Tensor
    weight: Tensor
    beta2: float
    eps: float = 1e-8

    def updated(self, norm: Tensor) -> "RunningNorm":
        """Return the running norm after one more observation of |g|."""
        fresh = 1 - self.beta2
        # The weights are kept beside the sum instead of a count of steps: a row that skips a step
        # skips its decay as well, and the quotient needs no power of beta2.
        return self._replace(
            second_moment=self.beta2 * self.second_moment + fresh * norm.square(),
            weight=self.beta2 * self.weight + fresh,
        )

    def scale(self) -> Tensor:
        """Return the divisor of the gradient; eps is outside the root, as in the official code."""
        return (self.second_moment / self.weight).sqrt() + self.eps


class StepReport(NamedTuple):
    """The result of one step per row [rows], on the device; inactive rows report zeros.

    An active row that did not move has step_length 0, and its tangent_norm says why: it is zero to
    rounding, or not finite.
    """

    data_norm: Tensor  # |dL/dv|, before the prior
    tangent_norm: Tensor  # |g| after prior and projection
    step_length: Tensor  # lr |g| / scale, the tangent of the step angle

    @property
    def step_angle(self) -> Tensor:
        """The angle between v before and after the step, in radians."""
        return self.step_length.atan()


def reference_step(
    v: Tensor,
    gradient: Tensor,
    mu: Tensor,
    lr: float,
    kappa: float = 0.0,
    running: RunningNorm | None = None,
) -> tuple[Tensor, RunningNorm | None]:
    """Take one step of one row, in the plainest form.

    v <- retract(v, -lr g / |g|) with g = to_tangent(v, gradient - kappa mu). A running norm, if
    given, takes the place of |g|.

    The official code divides by |g| + eps, which shortens steps by the factor |g| / (|g| + eps);
    here, as in the paper, the length is exactly lr, and eps belongs to the running norm alone. If
    g is zero to rounding, or not finite, the row and its running norm stay as they are.

    Shapes: v, gradient, mu [d] -> [d], and the new running norm.
    Source: paper, Algorithm 1, lines 7 to 10, and eq. 9.
    """
    raw = gradient + vmf.gradient(mu, kappa)
    tangent = sphere.to_tangent(v, raw)
    norm = scale = _norm(tangent)
    if not bool(_is_step(norm, _norm(raw))):
        return v, running
    if running is not None:
        running = running.updated(norm)
        scale = running.scale()
    return sphere.retract(v, -(lr / scale) * tangent), running


def vectorized_step_(
    v: Tensor,
    gradient: Tensor,
    mu: Tensor,
    lr: float | Tensor,
    kappa: float | Tensor = 0.0,
    running: RunningNorm | None = None,
    active: Tensor | None = None,
) -> StepReport:
    """Take `reference_step` in all rows at once, in place; a row that cannot move keeps its bits.

    One buffer g holds raw gradient, tangent and new rows in turn: on a CPU, allocation dominates.

    Shapes: v, gradient, mu [rows, d]; lr, kappa float or [rows]; active bool [rows], None for all.
    Source: as `reference_step`.
    """
    g = gradient + vmf.gradient(mu, kappa)
    # Now, since the projection overwrites g.
    raw_norm = _norm(g)
    g.addcmul_((g * v).sum(dim=-1, keepdim=True), v, value=-1)
    norm = scale = _norm(g)
    # `where` by a mask, never an index: an index would wait for the device.
    moves = _is_step(norm, raw_norm)
    moves = moves if active is None else moves & active
    if running is not None:
        updated = running.updated(norm)
        scale = updated.scale()
        # A row that does not move keeps its running norm as well: a NaN in it would outlast the
        # step that caused it.
        running.second_moment.copy_(
            torch.where(moves, updated.second_moment, running.second_moment)
        )
        running.weight.copy_(torch.where(moves, updated.weight, running.weight))
    # Rows that do not move may divide by zero here; `where` drops what follows from it.
    factor = lr / scale
    torch.addcmul(v, factor.unsqueeze(-1), g, value=-1, out=g)
    g.div_(sphere.length(g))
    torch.where(moves.unsqueeze(-1), g, v, out=v)
    length = torch.where(moves, factor * norm, 0.0)
    report = StepReport(_norm(gradient), norm, length)
    return report if active is None else StepReport(*(torch.where(active, x, 0.0) for x in report))


def step_rows_(
    v: Tensor,
    gradient: Tensor,
    mu: Tensor,
    lr: float | Tensor,
    kappa: float | Tensor = 0.0,
    running: RunningNorm | None = None,
    active: Tensor | None = None,
) -> StepReport:
    """Take `vectorized_step_`, or its Triton kernel for float32 on CUDA where Triton is installed.

    Shapes, source: as `vectorized_step_`.
    Raises: ConfigurationError if a shape does not fit v, or active is not boolean.
    """
    second_moment, weight = running[:2] if running is not None else (None, None)
    per_row = {"lr": lr, "kappa": kappa, "active": active}
    per_row |= {"second_moment": second_moment, "weight": weight}
    for name, value in {"gradient": gradient, "mu": mu, **per_row}.items():
        # Broadcasting would accept some wrong shapes, such as a rate per column, without an error.
        shape = v.shape[:1] if name in per_row else v.shape
        if isinstance(value, Tensor) and value.shape != shape:
            raise ConfigurationError(f"{name} must have shape {[*shape]}, got {[*value.shape]}")
    if active is not None and active.dtype != torch.bool:
        raise ConfigurationError(f"active must be boolean, got {active.dtype}")
    written = (v[0], second_moment, weight)
    # The kernel writes these in place, and expects contiguous rows.
    dense = all(x is None or x.is_contiguous() for x in written)
    # float64 is for tests, which compare forms in it, and takes the vectorised one.
    if v.is_cuda and v.dtype == torch.float32 and dense:
        from dti_engine.optim import rsgd_triton  # Triton is slow to import, and useless on a CPU

        if rsgd_triton.available():
            floor = _floor(v.dtype)
            return StepReport(
                *rsgd_triton.step_rows_(v, gradient, mu, lr, kappa, running, active, floor)
            )
    return vectorized_step_(v, gradient, mu, lr, kappa, running, active)


def _norm(x: Tensor) -> Tensor:
    return sphere.length(x).squeeze(-1)


def _is_step(norm: Tensor, raw_norm: Tensor) -> Tensor:
    """Return whether a tangent gradient is more than rounding; NaN and infinity compare false."""
    relative, absolute = _floor(norm.dtype)
    return norm > relative * raw_norm + absolute


def _floor(dtype: torch.dtype) -> tuple[float, float]:
    """Return (relative, absolute): at most relative |raw| + absolute counts as a zero tangent."""
    # sqrt(tiny): the squares of anything smaller underflow, so a norm that small says nothing about
    # its vector.
    info = torch.finfo(dtype)
    return _ROUNDING_UNITS * info.eps, info.tiny**0.5
