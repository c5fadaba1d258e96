"""Geometry of the unit sphere as pure functions: the foundation of the method.

The last axis of every tensor holds the coordinates of one point or vector (length d); leading
axes are batch axes and broadcast. A *point* has length 1; a *tangent* at a point is orthogonal to
it. The point comes first in every argument list. No function needs an epsilon: each formula is
written in a form without 0/0. The functions that can raise read one boolean back from the device;
the training step uses none of those.
"""

import torch
from torch import Tensor

from dti_engine.errors import AntipodalError, ConfigurationError, ZeroVectorError

_MEAN_TOLERANCE_RAD = 1e-13
_MAX_ITERATIONS = 1000


def length(x: Tensor) -> Tensor:
    """Euclidean length |x|, its axis kept for broadcasting.

    Shapes: x [..., d] -> [..., 1].
    """
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def normalize(x: Tensor) -> Tensor:
    """Direction of a vector: x / |x|.

    Scaled by the largest coordinate first, so that squares neither overflow nor underflow.

    Shapes: x [..., d] -> [..., d].
    Raises: ZeroVectorError if a vector is zero.
    Source: paper, Algorithm 1, lines 2 and 3.
    """
    largest = x.abs().amax(dim=-1, keepdim=True)
    if bool((largest == 0).any()):
        raise ZeroVectorError(
            "a zero vector has no direction; every vector to normalize must be non-zero"
        )
    scaled = x / largest
    return scaled / length(scaled)


def to_tangent(point: Tensor, vector: Tensor) -> Tensor:
    """Orthogonal projection onto the tangent space: vector - <vector, point> point.

    Shapes: point, vector [..., d] -> [..., d].
    Source: paper, eq. 2 (left); Algorithm 1, line 8.
    """
    return vector - (vector * point).sum(dim=-1, keepdim=True) * point


def retract(point: Tensor, tangent: Tensor) -> Tensor:
    """Step along a tangent and return to the sphere: (point + tangent) / |point + tangent|.

    Turns the point by atan(|tangent|) radians, along the same great circle as `exp_map`.

    Shapes: point, tangent [..., d] -> [..., d].
    Source: paper, eq. 2 (right); Algorithm 1, line 10.
    """
    # No guard against zero: the tangent is orthogonal, so the sum is at least as long as the point.
    moved = point + tangent
    return moved / length(moved)


def exp_map(point: Tensor, tangent: Tensor) -> Tensor:
    """Walk n = |tangent| radians along a great circle: cos(n) point + sin(n)/n tangent.

    sin(n)/n is the sinc function, smooth at n = 0: value and gradient are right there too.

    Shapes: point, tangent [..., d] -> [..., d].
    Source: exponential map of the sphere; `expmap` in geoopt and pymanopt.
    """
    n = length(tangent)
    return torch.cos(n) * point + torch.sinc(n / torch.pi) * tangent


def log_map(point: Tensor, other: Tensor) -> Tensor:
    """Tangent at `point` whose `exp_map` is `other`; the inverse of `exp_map` within pi radians.

    With angle a and u = to_tangent(point, other), of length sin(a), the answer is (a / sin a) u.
    Here a / sin a = 1 / (sinc(a / 2pi) cos(a / 2)) is singular at the antipode only, and u is
    formed from other -+ point, which changes nothing in exact arithmetic and cancels nothing near
    0 and pi.

    Shapes: point, other [..., d] -> [..., d].
    Raises: AntipodalError if the two are opposite to within 2 sqrt(eps) radians of their dtype.
    Source: logarithm of the sphere; `logmap` in geoopt and pymanopt.
    """
    half_cosine = length(point + other) / 2
    if bool((half_cosine <= _resolution(half_cosine)).any()):
        raise AntipodalError("two directions are opposite: no single shortest path joins them")
    # The nearer of the two poles: without it, the difference below would cancel its digits.
    # It is 0 for orthogonal points, where there is nothing to cancel.
    side = torch.sign((point * other).sum(dim=-1, keepdim=True))
    angle = geodesic_distance(point, other).unsqueeze(-1)
    return to_tangent(point, other - side * point) / (
        torch.sinc(angle / (2 * torch.pi)) * half_cosine
    )


def geodesic_distance(a: Tensor, b: Tensor) -> Tensor:
    """Angle between two points in radians: 2 atan2(|a - b|, |a + b|).

    Accurate to rounding from 0 to pi, where acos(<a, b>) loses half of the digits at both ends.

    Shapes: a, b [..., d] -> [...].
    Source: Kahan, "How Futile are Mindless Assessments of Roundoff", section 12.
    """
    return 2 * torch.atan2(length(a - b), length(a + b)).squeeze(-1)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Point at the fraction t of the shortest path from a to b: exp_map(a, t log_map(a, b)).

    Shapes: a, b [..., d], t float or [...] -> [..., d].
    Raises: AntipodalError if a and b are opposite.
    Source: spherical linear interpolation, Shoemake 1985, in its geodesic form; paper, section 4.5.
    """
    fraction = t.unsqueeze(-1) if isinstance(t, Tensor) else t
    return exp_map(a, fraction * log_map(a, b))


def mean_direction(points: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted Frechet (Karcher) mean: the m with sum_i w_i log_map(m, points_i) = 0.

    Iterated to convergence, m <- exp_map(m, sum_i w_i log_map(m, points_i)), in float64. Chosen
    over the normalized weighted sum because the mean of two is then exactly their slerp: a blend
    of two subjects does not depend on which function made it. It is unique if the points fit in
    one open hemisphere.

    Shapes: points [..., n, d], weights [..., n] of any sum, or None for equal ones -> [..., d].
    Raises: AntipodalError if the points fit in no open hemisphere, or too barely to be decided;
        ZeroVectorError if a point is zero; ConfigurationError if weights are negative or all zero.
    Source: Buss and Fillmore, "Spherical averages", 2001: uniqueness, and the iteration (their A1).
    """
    # In float32 the iteration would stall above its tolerance.
    exact = normalize(points.double())
    shares = _shares(weights, exact).unsqueeze(-1)
    _require_open_hemisphere(exact, _resolution(points))
    # Not zero, since all points have a positive cosine with one pole, and so has their sum.
    mean = normalize((shares * exact).sum(dim=-2))
    for _ in range(_MAX_ITERATIONS):
        step = (shares * log_map(mean.unsqueeze(-2), exact)).sum(dim=-2)
        mean = normalize(exp_map(mean, step))  # rounding would drift off the sphere
        if bool((length(step) <= _MEAN_TOLERANCE_RAD).all()):
            return mean.to(points.dtype)
    raise AntipodalError(
        f"the mean of these directions did not settle in {_MAX_ITERATIONS} iterations"
    )


def _resolution(x: Tensor) -> float:
    """Cosine below which two directions count as orthogonal: half of the digits of the dtype."""
    return torch.finfo(x.dtype).eps ** 0.5


def _shares(weights: Tensor | None, points: Tensor) -> Tensor:
    """Return the weights of `mean_direction`, scaled to sum to 1."""
    if weights is None:
        return points.new_full(points.shape[:-1], 1 / points.shape[-2])
    exact = weights.to(points)
    total = exact.sum(dim=-1, keepdim=True)
    if not bool((torch.isfinite(exact) & (exact >= 0) & (total > 0)).all()):
        raise ConfigurationError(f"weights must be >= 0 and not all zero, got {weights}")
    return exact / total


def _require_open_hemisphere(points: Tensor, resolution: float) -> None:
    """Seek a pole with a positive cosine to every point; none exists if 0 is in their convex hull.

    Gilbert's algorithm (1966) for the point of the hull nearest to 0; two points take one step.
    Sets that fit, but too barely to be found so in `_MAX_ITERATIONS`, are rejected as well.
    """
    pole = points.mean(dim=-2)
    fits = torch.zeros(pole.shape[:-1], dtype=torch.bool, device=points.device)
    for _ in range(_MAX_ITERATIONS):
        margins = (points * pole.unsqueeze(-2)).sum(dim=-1)
        worst, index = margins.min(dim=-1)
        # Once a set fits, it fits, whatever the pole does while others in the batch are searched.
        fits |= worst > resolution * length(pole).squeeze(-1)
        if bool(fits.all()):
            return
        # Move to the point nearest to 0 on the segment from the pole to the worst point.
        segment = torch.take_along_dim(points, index[..., None, None], dim=-2).squeeze(-2) - pole
        along = -(pole * segment).sum(dim=-1) / segment.square().sum(dim=-1)
        pole = pole + along.clamp(0, 1).unsqueeze(-1) * segment
    raise AntipodalError(
        "the directions do not fit in one open hemisphere: their mean is not unique"
    )
