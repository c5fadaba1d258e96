"""RiemannianSGD: the RSGD step as a `torch.optim.Optimizer`, independent of models and tokens."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from dti_engine.errors import ConfigurationError
from dti_engine.optim import sphere
from dti_engine.optim.rsgd import RunningNorm, StepReport, step_rows_

Masks = Tensor | Sequence[Tensor] | None

_UNIT_TOLERANCE = 1e-4


class RiemannianSGD(torch.optim.Optimizer):
    """Riemannian SGD on the unit sphere with a von Mises-Fisher prior, for rows of directions.

    Each parameter group holds one tensor of unit rows [rows, d]. Options, per group or as defaults:

    lr      float or [rows]: one step turns a row by atan(lr) radians. An angle: never scale it by
            batch size, accumulation steps or number of GPUs.
    mu      [rows, d], mean directions of the prior. Default: the rows when the group is added,
            which is line 3 of Algorithm 1.
    kappa   float or [rows], concentration of the prior, relative to a loss that is a mean over the
            samples of that row.
    beta2   0: each gradient is divided by its own norm (the paper). In (0, 1): by a running norm.
    eps     added to the running norm; without effect at beta2 = 0.

    Tensors are copied into the group, may be written there between steps, and are part of
    `state_dict`. Gradients are only read. `reports[i]` reports the last step of group i, or is None
    if the group had no gradient.

    Raises: ConfigurationError for an option out of range, with its value.
    Source: paper, Algorithm 1; Bonnabel 2013.
    """

    reports: list[StepReport | None]

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        *,
        mu: Tensor | None = None,
        kappa: float | Tensor = 0.0,
        beta2: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "mu": mu, "kappa": kappa, "beta2": beta2, "eps": eps})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Check a group and copy its tensors; the constructor passes every group through here."""
        group = self.defaults | param_group
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        if len(params) != 1:
            raise ConfigurationError(f"a group holds one tensor of rows, got {len(params)}")
        rows: Tensor = params[0].detach()
        mu: Tensor = rows if group["mu"] is None else group["mu"].detach().to(rows)
        _require_unit_rows("params", rows, rows.shape)
        _require_unit_rows("mu", mu, rows.shape)
        if not 0 <= group["beta2"] < 1:
            raise ConfigurationError(f"beta2 must be in [0, 1), got {group['beta2']}")
        if not 0 <= group["eps"] < math.inf:
            raise ConfigurationError(f"eps must be finite and >= 0, got {group['eps']}")
        per_row = {name: _non_negative(name, group[name], rows) for name in ("lr", "kappa")}
        # The default mu is the rows themselves, which will move: it must be a copy.
        super().add_param_group(group | per_row | {"params": params, "mu": mu.clone()})
        self.reports = [None] * len(self.param_groups)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Move group tensors to the device of their rows after loading, and drop old reports."""
        super().__setstate__(state)
        self.reports = [None] * len(self.param_groups)
        # torch moves the state of parameters to their device, but not tensors in group options.
        for group in self.param_groups:
            for name in ("lr", "mu", "kappa"):
                if isinstance(group[name], Tensor):
                    group[name] = group[name].to(group["params"][0])

    @overload
    def step(self, closure: None = None, *, active: Masks = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float], *, active: Masks = None) -> float: ...
    def step(
        self, closure: Callable[[], float] | None = None, *, active: Masks = None
    ) -> float | None:
        """Take one step in every active row; other rows and their running norms keep every bit.

        active: boolean [rows] for every group, or one mask per group in a sequence; None: all rows.
        A row without a sample in the batch must be inactive, or the prior alone takes a full step.
        """
        loss = None
        if closure is not None:
            # As in torch's optimizers: `step` may be called under no_grad, a closure may not.
            with torch.enable_grad():
                loss = closure()
        masks: Sequence[Tensor | None] = (
            [active] * len(self.param_groups)
            if active is None or isinstance(active, Tensor)
            else active
        )
        if len(masks) != len(self.param_groups):
            raise ConfigurationError(
                f"one mask per group: {len(self.param_groups)}, got {len(masks)}"
            )
        with torch.no_grad():
            groups = zip(self.param_groups, masks, strict=True)
            self.reports = [self._step_group(group, mask) for group, mask in groups]
        return loss

    def _step_group(self, group: dict[str, Any], active: Tensor | None) -> StepReport | None:
        rows: Tensor = group["params"][0]
        # As in torch: a parameter that took no part in the loss is left alone, prior included.
        if rows.grad is None:
            return None
        running = self._running_norm(rows, group) if group["beta2"] > 0 else None
        return step_rows_(
            rows, rows.grad, group["mu"], group["lr"], group["kappa"], running, active
        )

    def _running_norm(self, rows: Tensor, group: dict[str, Any]) -> RunningNorm:
        """Return the live state of a group; it is zero before the first step."""
        # In torch's `state`, not among the group's options, so that `state_dict` treats it as the
        # state of a parameter and moves it to the parameter's device when it is loaded.
        state = self.state[rows]
        for name in ("second_moment", "weight"):
            state.setdefault(name, rows.new_zeros(len(rows)))
        return RunningNorm(state["second_moment"], state["weight"], group["beta2"], group["eps"])


def _non_negative(name: str, value: float | Tensor, rows: Tensor) -> float | Tensor:
    """Return the float, or a copy of the tensor [rows], if every value is finite and >= 0."""
    if isinstance(value, Tensor) and value.shape != rows.shape[:1]:
        raise ConfigurationError(f"{name} must be a float or [{len(rows)}], got {[*value.shape]}")
    checked = torch.as_tensor(value)
    if not bool((torch.isfinite(checked) & (checked >= 0)).all()):
        raise ConfigurationError(f"{name} must be finite and >= 0, got {value}")
    return value.detach().to(rows, copy=True) if isinstance(value, Tensor) else float(value)


def _require_unit_rows(name: str, rows: Tensor, shape: torch.Size) -> None:
    """Reject anything but unit rows [rows, d] in float32 or float64."""
    if rows.dtype not in (torch.float32, torch.float64):
        raise ConfigurationError(f"{name} must be float32 (float64 in tests), got {rows.dtype}")
    if rows.ndim != 2 or rows.numel() == 0 or rows.shape != shape:
        raise ConfigurationError(
            f"{name} must have the shape [rows, d] of params, got {[*rows.shape]}"
        )
    lengths = sphere.length(rows)
    # Written as "not all within": NaN compares false, and so is rejected too.
    if not bool(((lengths - 1).abs() <= _UNIT_TOLERANCE).all()):
        worst = lengths.flatten()[(lengths - 1).abs().argmax()].item()
        raise ConfigurationError(f"{name} must have rows of length 1, got one of {worst}")
