# pyright: basic, reportMissingImports=false
# Triton has no type stubs, and its language is not quite Python: strict checking ends at this file.
"""The RSGD step as one Triton kernel: one launch, one program per row.

`rsgd.step_rows_` calls it and documents the mathematics. This module can be imported without
Triton: check `available()` before `step_rows_`.
"""

from typing import Any

import torch
from torch import Tensor

_kernel: Any = None
try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of torch come without Triton
    pass
else:

    @triton.jit
    def _riemannian_gradient(v, gradient, mu, kappa, relative_floor, absolute_floor):
        """Return the tangent, its squared norm, its norm, and whether the norm is not zero."""
        raw = gradient - kappa * mu
        tangent = raw - tl.sum(raw * v) * v
        squared = tl.sum(tangent * tangent)
        # Square roots and divisions round to nearest (_rn), as torch's do: the forms must agree.
        norm = tl.sqrt_rn(squared)
        nonzero = norm > relative_floor * tl.sqrt_rn(tl.sum(raw * raw)) + absolute_floor
        return tangent, squared, norm, nonzero

    @triton.jit
    def _running_norm(
        second_moment_ptr, weight_ptr, row, squared, moves, beta2, one_minus_beta2, eps
    ):
        """Return the norm that divides the step; store the second moment of a row that moves."""
        second = beta2 * tl.load(second_moment_ptr + row) + one_minus_beta2 * squared
        weight = beta2 * tl.load(weight_ptr + row) + one_minus_beta2
        if moves:
            tl.store(second_moment_ptr + row, second)
            tl.store(weight_ptr + row, weight)
        return tl.sqrt_rn(tl.div_rn(second, weight)) + eps

    @triton.jit
    def _step_row(
        v_ptr,
        gradient_ptr,
        mu_ptr,
        lr,  # a float, or a pointer to one per row
        kappa,  # likewise
        active_ptr,  # None: every row
        second_moment_ptr,  # None: beta2 = 0
        weight_ptr,
        beta2,
        one_minus_beta2,
        eps,
        relative_floor,
        absolute_floor,
        report_ptr,
        v_stride,
        rows,
        dim,
        LR_PER_ROW: tl.constexpr,
        KAPPA_PER_ROW: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        # One program per row; a block covers all d columns, so sums need no second pass.
        # In 64 bits: a product of row and stride in 32 bits overflows in a table of 2^31 numbers.
        row = tl.program_id(0).to(tl.int64)
        columns = tl.arange(0, BLOCK)
        mask = columns < dim
        lr_row = tl.load(lr + row) if LR_PER_ROW else lr
        kappa_row = tl.load(kappa + row) if KAPPA_PER_ROW else kappa
        v = tl.load(v_ptr + row * v_stride + columns, mask=mask, other=0.0)
        gradient = tl.load(gradient_ptr + row * dim + columns, mask=mask, other=0.0)
        mu = tl.load(mu_ptr + row * dim + columns, mask=mask, other=0.0)

        tangent, squared, norm, moves = _riemannian_gradient(  # pyright: ignore[reportGeneralTypeIssues]
            v, gradient, mu, kappa_row, relative_floor, absolute_floor
        )
        data_norm = tl.sqrt_rn(tl.sum(gradient * gradient))
        reported_norm = norm
        # An argument that is None is a constant of the compilation, so this branch costs nothing.
        if active_ptr is not None:
            active = tl.load(active_ptr + row) != 0
            moves = moves & active
            data_norm = tl.where(active, data_norm, 0.0)
            reported_norm = tl.where(active, norm, 0.0)

        scale = norm
        if second_moment_ptr is not None:
            scale = _running_norm(
                second_moment_ptr, weight_ptr, row, squared, moves, beta2, one_minus_beta2, eps
            )
        factor = tl.div_rn(lr_row, scale)
        # A condition around all of it: a row that does not move may have NaN as its new value, and
        # must keep its bits.
        if moves:
            moved = v - factor * tangent
            moved = tl.div_rn(moved, tl.sqrt_rn(tl.sum(moved * moved)))
            tl.store(v_ptr + row * v_stride + columns, moved, mask=mask)
        tl.store(report_ptr + row, data_norm)
        tl.store(report_ptr + rows + row, reported_norm)
        tl.store(report_ptr + 2 * rows + row, tl.where(moves, factor * norm, 0.0))

    _kernel = _step_row


def available() -> bool:
    """Return whether Triton is installed."""
    return _kernel is not None


def _dense(value: float | Tensor | None) -> float | Tensor | None:
    """Return a tensor made contiguous, as the kernel reads it; return anything else unchanged."""
    return value.contiguous() if isinstance(value, Tensor) else value


def step_rows_(
    v: Tensor,
    gradient: Tensor,
    mu: Tensor,
    lr: float | Tensor,
    kappa: float | Tensor,
    running: tuple[Tensor, Tensor, float, float] | None,
    active: Tensor | None,
    floor: tuple[float, float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel; return data norm, tangent norm and step length, each [rows].

    Shapes: v (written), gradient, mu [rows, d], float32 on one device; lr, kappa float or [rows];
    running = second moment and weight [rows] (written), beta2, eps; active bool [rows];
    floor = relative and absolute bound at which a tangent norm counts as zero.
    """
    second_moment, weight, beta2, eps = running or (None, None, 0.0, 0.0)
    relative_floor, absolute_floor = floor
    rows, dim = v.shape
    # One allocation for three results.
    report = v.new_empty(3, rows)
    # Triton launches on the current device, which may be another GPU than that of v.
    with torch.cuda.device_of(v):
        _kernel[(rows,)](
            v,
            _dense(gradient),
            _dense(mu),
            _dense(lr),
            _dense(kappa),
            _dense(active),
            second_moment,
            weight,
            beta2,
            1 - beta2,
            eps,
            relative_floor,
            absolute_floor,
            report,
            # Rows of v may lie apart, as v is written in place; everything else was made dense.
            v.stride(0),
            rows,
            dim,
            LR_PER_ROW=isinstance(lr, Tensor),
            KAPPA_PER_ROW=isinstance(kappa, Tensor),
            BLOCK=triton.next_power_of_2(dim),
            enable_fp_fusion=False,  # multiply and add round separately, as in the plain version
        )
    # Autograd does not see the kernel's writes. Without this line, a backward pass through a graph
    # that has saved v would use the new rows and raise no error.
    torch.autograd.graph.increment_version(v)
    return report[0], report[1], report[2]
