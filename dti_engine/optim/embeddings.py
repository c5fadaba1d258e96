"""The learned rows of one text encoder, and how gradients move them: as directions, or as vectors.

A learner owns one table [rows, d] in which every packed subject has a few rows. Rows never mix, so
no subject notices its neighbours. All state is per row, in float32 (float64 in tests), whatever the
dtype of the model. Knows no prompts, slots or losses; no step reads from the device.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dti_engine.config import TrainConfig
from dti_engine.optim import sphere
from dti_engine.optim.rsgd import RunningNorm, step_rows_


class RowMetrics(NamedTuple):
    """What one step did, per row [rows], on the device; undefined for inactive rows."""

    gradient_norm: Tensor  # |g| of the data loss, before prior and weight decay
    prior_ratio: Tensor  # kappa / |g|: the prior beside the data
    step_angle: Tensor  # radians turned by this step
    prior_angle: Tensor  # radians between what is learned, after the step, and where it started
    norm: Tensor  # length of what is learned


class EmbeddingOptimizer(Protocol):
    """What the trainer asks of a method."""

    parameter: Tensor  # (rows, d), the leaf whose gradient `step` takes
    active: Tensor  # (rows,) bool, the rows that learn

    def add_rows(self, rows: slice, initial: Tensor, config: TrainConfig) -> None:
        """Start these rows afresh at the embeddings `initial` (n, d), and let them learn so.

        Of the config, method and beta2 are those that the learner was made for.
        """
        ...

    def set_learning_rate(self, rows: slice, lr: float) -> None:
        """Let these rows take their next steps at this rate."""
        ...

    def remove_rows(self, rows: slice) -> None:
        """Stop these rows: no step moves them until they are added again."""
        ...

    def state(self, rows: slice) -> dict[str, Tensor]:
        """All that these rows have and remember, copied: name -> (n, ...)."""
        ...

    def restore(self, rows: slice, state: Mapping[str, Tensor]) -> None:
        """Let active rows learn on from a `state`, of the same names, shapes, dtypes."""
        ...

    def embeddings(self) -> Tensor:
        """The rows as the text encoder gets them, (rows, d), differentiable in `parameter`."""
        ...

    def learned(self) -> Tensor:
        """The rows as tokens keep them, (rows, d), not differentiable."""
        ...

    def step(self, gradient: Tensor) -> RowMetrics:
        """Move every active row once, by its row of dL/d`parameter` (rows, d)."""
        ...


class DirectionOptimizer:
    """Directional Textual Inversion: e = m* v, where v moves on the unit sphere and m* stays.

    The prior's mean is v_0. lr is an angle in radians. What is learned is v or, with ema_decay b,
    the direction of the running mean a <- b a + (1 - b) v, which has less of each step's noise.

    Source: paper, Algorithm 1; see `step`. Averaging: Polyak and Juditsky 1992, here with a mean
    that forgets, projected to the sphere.
    """

    def __init__(self, table: Tensor, *, beta2: float = 0.0) -> None:
        """`table` [rows, d] gives shape, device and dtype."""
        per_row = table.new_zeros(len(table))
        self.parameter = torch.zeros_like(table, requires_grad=True)
        self.active = torch.zeros(len(table), dtype=torch.bool, device=table.device)
        self._mu, self._average = torch.zeros_like(table), torch.zeros_like(table)
        self._lr, self._kappa, self._ema_decay = (per_row.clone() for _ in range(3))
        self._magnitudes = per_row.clone()
        self._running = RunningNorm(per_row.clone(), per_row.clone(), beta2)
        self._tables = {
            "directions": self.parameter,
            "prior_means": self._mu,
            "magnitudes": self._magnitudes,
            "average": self._average,
            "running_second_moment": self._running.second_moment,
            "running_weight": self._running.weight,
        }

    @torch.no_grad()
    def add_rows(self, rows: slice, initial: Tensor, config: TrainConfig) -> None:
        """As `EmbeddingOptimizer.add_rows`. Raises: ZeroVectorError if a vector is zero."""
        start = initial.to(self._mu)
        self.parameter[rows] = self._mu[rows] = sphere.normalize(start)
        self._magnitudes[rows] = torch.linalg.vector_norm(start, dim=-1)
        for state in (self._average, self._running.second_moment, self._running.weight):
            state[rows] = 0
        self._kappa[rows], self._ema_decay[rows] = config.kappa, config.ema_decay
        self.set_learning_rate(rows, config.lr)
        self.active[rows] = True

    def set_learning_rate(self, rows: slice, lr: float) -> None:
        self._lr[rows] = lr

    def remove_rows(self, rows: slice) -> None:
        self.active[rows] = False

    def state(self, rows: slice) -> dict[str, Tensor]:
        return _copied(self._tables, rows)

    def restore(self, rows: slice, state: Mapping[str, Tensor]) -> None:
        _put(state, self._tables, rows)

    def embeddings(self) -> Tensor:
        return self._magnitudes.unsqueeze(-1) * self.parameter

    @torch.no_grad()
    def learned(self) -> Tensor:
        return self._magnitudes.unsqueeze(-1) * self._directions()

    def _directions(self) -> Tensor:
        """Those of `learned`."""
        # The length of the mean is of no account, so its weights need not sum to 1.
        length = sphere.length(self._average)
        averaged = (self._ema_decay.unsqueeze(-1) > 0) & (length > 0)
        return torch.where(averaged, self._average / length, self.parameter)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> RowMetrics:
        v, running = self.parameter, self._running if self._running.beta2 > 0 else None
        report = step_rows_(v, gradient, self._mu, self._lr, self._kappa, running, self.active)
        self._average.copy_(
            torch.where(
                self.active.unsqueeze(-1),
                torch.lerp(v, self._average, self._ema_decay.unsqueeze(-1)),
                self._average,
            )
        )
        return RowMetrics(
            gradient_norm=report.data_norm,
            prior_ratio=self._kappa / report.data_norm,
            step_angle=report.step_angle,
            prior_angle=sphere.geodesic_distance(self._directions(), self._mu),
            norm=torch.linalg.vector_norm(self.learned(), dim=-1),
        )


class AdamWOptimizer:
    """Standard Textual Inversion, the baseline: e itself moves, length and all, by AdamW.

    Each row counts its own steps, so the table is equal to one `torch.optim.AdamW` per subject.
    With `TrainConfig.anchor_weight` w, the loss has w |e - e_0| too, mean over a token's vectors.
    Source: Gal et al. 2022; Loshchilov and Hutter 2019, Algorithm 2, with torch's defaults; anchor:
    Pang et al. 2024 (CrossInit), whose code takes the distance, not its square.
    """

    _BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8

    def __init__(self, table: Tensor) -> None:
        """`table` [rows, d] gives shape, device and dtype."""
        per_row = table.new_zeros(len(table), 1)
        self.parameter = torch.zeros_like(table, requires_grad=True)
        self.active = torch.zeros(len(table), dtype=torch.bool, device=table.device)
        self._initial = torch.zeros_like(table)
        self._first_moment = torch.zeros_like(table)
        self._second_moment = torch.zeros_like(table)
        self._steps, self._lr, self._weight_decay = (per_row.clone() for _ in range(3))
        self._anchor_weight = per_row.clone()
        self._tables = {
            "vectors": self.parameter,
            "initial": self._initial,
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
            "steps": self._steps,
        }

    @torch.no_grad()
    def add_rows(self, rows: slice, initial: Tensor, config: TrainConfig) -> None:
        self.parameter[rows] = self._initial[rows] = initial.to(self._initial)
        for state in (self._first_moment, self._second_moment, self._steps):
            state[rows] = 0
        self._weight_decay[rows] = config.weight_decay
        self._anchor_weight[rows] = config.anchor_weight / len(initial)
        self.set_learning_rate(rows, config.lr)
        self.active[rows] = True

    def set_learning_rate(self, rows: slice, lr: float) -> None:
        self._lr[rows] = lr

    def remove_rows(self, rows: slice) -> None:
        self.active[rows] = False

    def state(self, rows: slice) -> dict[str, Tensor]:
        return _copied(self._tables, rows)

    def restore(self, rows: slice, state: Mapping[str, Tensor]) -> None:
        _put(state, self._tables, rows)

    def embeddings(self) -> Tensor:
        return self.parameter

    def learned(self) -> Tensor:
        return self.parameter.detach()

    @torch.no_grad()
    def step(self, gradient: Tensor) -> RowMetrics:
        before, active = self.parameter.clone(), self.active.unsqueeze(-1)
        self._steps += active
        data_norm = torch.linalg.vector_norm(gradient, dim=-1)
        # `normalize` gives zero at the start itself, where the distance has no slope.
        gradient = gradient + self._anchor_weight * normalize(before - self._initial, dim=-1)
        for state, observed, beta in (
            (self._first_moment, gradient, self._BETA1),
            (self._second_moment, gradient.square(), self._BETA2),
        ):
            state.copy_(torch.where(active, beta * state + (1 - beta) * observed, state))
        mean = self._first_moment / _debias(self._BETA1, self._steps)
        spread = (self._second_moment / _debias(self._BETA2, self._steps)).sqrt() + self._EPS
        moved = (1 - self._lr * self._weight_decay) * before - self._lr * mean / spread
        self.parameter.copy_(torch.where(active, moved, before))
        return RowMetrics(
            gradient_norm=data_norm,
            prior_ratio=gradient.new_zeros(len(gradient)),
            step_angle=_angle(before, self.parameter),
            prior_angle=_angle(self._initial, self.parameter),
            norm=torch.linalg.vector_norm(self.parameter, dim=-1),
        )


def new_embedding_optimizer(
    config: TrainConfig, num_rows: int, vocabulary: Tensor
) -> EmbeddingOptimizer:
    """The learner of the config's method, its rows empty, and like those of `vocabulary` [V, d]."""
    dtype = torch.promote_types(vocabulary.dtype, torch.float32)
    table = torch.zeros(num_rows, vocabulary.shape[1], dtype=dtype, device=vocabulary.device)
    return (
        DirectionOptimizer(table, beta2=config.beta2)
        if config.method == "dti"
        else (AdamWOptimizer(table))
    )


def _copied(tables: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: table.detach()[rows].clone() for name, table in tables.items()}


@torch.no_grad()
def _put(state: Mapping[str, Tensor], tables: Mapping[str, Tensor], rows: slice) -> None:
    for name, table in tables.items():
        table[rows] = state[name].to(table)


def _debias(beta: float, steps: Tensor) -> Tensor:
    """1 - beta^steps; the plain form loses four digits in float32 while steps are few."""
    return -torch.expm1(math.log(beta) * steps)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between free vectors. Zero rows, which nobody owns, raise nothing and cost no read."""
    return sphere.geodesic_distance(normalize(a, dim=-1), normalize(b, dim=-1))
