"""Embedding optimizers: the learned rows of one text encoder, moved as directions or as vectors.

An optimizer owns one table [rows, d] in which every packed subject has a few rows. Rows never mix,
so no subject influences its neighbours. All state is per row, in float32 (float64 in tests),
whatever the dtype of the model. This module knows no prompts, slots or losses, and no step reads
from the device.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dti_engine.config import TrainConfig
from dti_engine.optim import sphere
from dti_engine.optim.rsgd import RunningNorm, step_rows_


class RowMetrics(NamedTuple):
    """The result of one step per row [rows], on the device; undefined for inactive rows."""

    gradient_norm: Tensor  # |g| of the data loss, before prior and weight decay
    prior_ratio: Tensor  # kappa / |g|: the prior relative to the data
    step_angle: Tensor  # radians turned by this step
    prior_angle: Tensor  # radians between the learned row, after the step, and its initial value
    norm: Tensor  # length of the learned row


class EmbeddingOptimizer(ABC):
    """A table of rows, of which some are active, and the optimizer that moves them.

    Subclasses list in `_tables` every per-row tensor that training changes, by the name under which
    checkpoints store it.
    """

    parameter: Tensor  # (rows, d), the leaf whose gradient `step` takes
    active: Tensor  # (rows,) bool, the rows that learn

    def __init__(self, table: Tensor) -> None:
        """`table` [rows, d] gives shape, device and dtype."""
        self.parameter = torch.zeros_like(table, requires_grad=True)
        self.active = torch.zeros(len(table), dtype=torch.bool, device=table.device)
        # Per row, because each subject is at its own step of its own schedule.
        self._lr = table.new_zeros(len(table))
        self._tables: Mapping[str, Tensor] = {}

    @torch.no_grad()
    def add_rows(self, rows: slice, initial: Tensor, config: TrainConfig) -> None:
        """Activate rows, with the embeddings `initial` (n, d) and fresh state.

        Method and beta2 of the config must be those that the optimizer was made for.

        Raises: ZeroVectorError if a vector is zero and the optimizer needs its direction.
        """
        # Before the rows become active: a zero vector raises here, and must leave no active row.
        self._initialize(rows, initial, config)
        self.set_learning_rate(rows, config.lr)
        self.active[rows] = True

    @abstractmethod
    def _initialize(self, rows: slice, initial: Tensor, config: TrainConfig) -> None:
        """Set the rows, their state and their hyperparameters."""

    def set_learning_rate(self, rows: slice, lr: float) -> None:
        """Set the learning rate of the next steps of these rows."""
        # A number fills the rows without waiting; a tensor from the host would be copied first.
        self._lr[rows] = lr

    def remove_rows(self, rows: slice) -> None:
        """Deactivate rows: no step moves them until they are added again."""
        self.active[rows] = False

    def state(self, rows: slice) -> dict[str, Tensor]:
        """Return a copy of everything that training changes in these rows: name -> (n, ...)."""
        return {name: table.detach()[rows].clone() for name, table in self._tables.items()}

    @torch.no_grad()
    def restore(self, rows: slice, state: Mapping[str, Tensor]) -> None:
        """Continue active rows from a `state` of the same names, shapes and dtypes."""
        for name, table in self._tables.items():
            # In place: `parameter` is the leaf that gradients are taken for, and must stay the
            # same.
            table[rows] = state[name].to(table)

    @abstractmethod
    def embeddings(self) -> Tensor:
        """Return the rows for the text encoder, (rows, d), differentiable in `parameter`."""

    @abstractmethod
    def learned(self) -> Tensor:
        """Return the rows that tokens keep, (rows, d), without gradient."""

    @abstractmethod
    def step(self, gradient: Tensor) -> RowMetrics:
        """Move every active row once, by its row of dL/d`parameter` (rows, d)."""


class DirectionOptimizer(EmbeddingOptimizer):
    """Directional Textual Inversion: e = m* v, where v moves on the unit sphere and m* is fixed.

    The prior's mean is v_0. lr is an angle in radians. The learned direction is v or, with
    ema_decay b, that of the moving average a <- b a + (1 - b) v, which has less of each step's
    noise.

    Source: paper, Algorithm 1; see `rsgd`. Averaging: Polyak and Juditsky 1992, here with an
    exponential moving average, projected to the sphere.
    """

    def __init__(self, table: Tensor, *, beta2: float = 0.0) -> None:
        """`table` as in `EmbeddingOptimizer`; beta2: decay of the running gradient norm."""
        super().__init__(table)
        per_row = table.new_zeros(len(table))
        self._mu, self._average = torch.zeros_like(table), torch.zeros_like(table)
        self._kappa, self._ema_decay, self._magnitudes = (per_row.clone() for _ in range(3))
        self._running = RunningNorm(per_row.clone(), per_row.clone(), beta2)
        # Rate, kappa and decay are not among them. The config decides these, so `add_rows` sets
        # them again, and the provenance of a checkpoint guards the config.
        self._tables = {
            "directions": self.parameter,
            "prior_means": self._mu,
            "magnitudes": self._magnitudes,
            "average": self._average,
            "running_second_moment": self._running.second_moment,
            "running_weight": self._running.weight,
        }

    def _initialize(self, rows: slice, initial: Tensor, config: TrainConfig) -> None:
        # Converted before the division: a row that was normalised in float32 has length 1 only to
        # float32, and the tests in float64 would see it.
        exact = initial.to(self._mu)
        self.parameter[rows] = self._mu[rows] = sphere.normalize(exact)
        # The length of the initial embedding is m*: `initial_token` has given it the length that
        # the config asks for.
        self._magnitudes[rows] = torch.linalg.vector_norm(exact, dim=-1)
        for state in (self._average, self._running.second_moment, self._running.weight):
            state[rows] = 0
        self._kappa[rows], self._ema_decay[rows] = config.kappa, config.ema_decay

    def embeddings(self) -> Tensor:
        return self._magnitudes.unsqueeze(-1) * self.parameter

    @torch.no_grad()
    def learned(self) -> Tensor:
        return self._magnitudes.unsqueeze(-1) * self._learned_directions()

    def _learned_directions(self) -> Tensor:
        # Only the direction of the average counts, so its weights need not sum to 1. Before a
        # row's first step the average is zero and has no direction: then v itself counts.
        length = sphere.length(self._average)
        averaged = (self._ema_decay.unsqueeze(-1) > 0) & (length > 0)
        return torch.where(averaged, self._average / length, self.parameter)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> RowMetrics:
        v, running = self.parameter, self._running if self._running.beta2 > 0 else None
        report = step_rows_(v, gradient, self._mu, self._lr, self._kappa, running, self.active)
        # lerp(v, a, b) = v + b (a - v) = b a + (1 - b) v, the moving average of the docstring. With
        # b = 0 it is v itself, so that one formula serves rows with and without averaging.
        self._average.copy_(
            torch.where(
                self.active.unsqueeze(-1),
                torch.lerp(v, self._average, self._ema_decay.unsqueeze(-1)),
                self._average,
            )
        )
        return RowMetrics(
            gradient_norm=report.data_norm,
            # 0 / 0 in inactive rows: `tabulate` leaves them out, so no epsilon has to spoil the
            # others.
            prior_ratio=self._kappa / report.data_norm,
            step_angle=report.step_angle,
            prior_angle=sphere.geodesic_distance(self._learned_directions(), self._mu),
            norm=torch.linalg.vector_norm(self.learned(), dim=-1),
        )


class AdamWOptimizer(EmbeddingOptimizer):
    """Standard Textual Inversion, the baseline: AdamW moves e itself, length included.

    Each row counts its own steps, so the table equals one `torch.optim.AdamW` per subject. With
    `TrainConfig.anchor_weight` w, the loss also has w |e - e_0|, averaged over a token's vectors.

    Source: Gal et al. 2022; Loshchilov and Hutter 2019, Algorithm 2, with torch's defaults; anchor:
    Pang et al. 2024 (CrossInit), whose code takes the distance, not its square.
    """

    _BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8

    def __init__(self, table: Tensor) -> None:
        super().__init__(table)
        self._initial = torch.zeros_like(table)
        self._first_moment = torch.zeros_like(table)
        self._second_moment = torch.zeros_like(table)
        per_row = table.new_zeros(len(table), 1)
        self._steps, self._weight_decay, self._anchor_weight = (per_row.clone() for _ in range(3))
        self._tables = {
            "vectors": self.parameter,
            "initial": self._initial,
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
            "steps": self._steps,
        }

    def _initialize(self, rows: slice, initial: Tensor, config: TrainConfig) -> None:
        # The initial vectors stay: the anchor pulls towards them, and the reported angle starts
        # there.
        self.parameter[rows] = self._initial[rows] = initial.to(self._initial)
        for state in (self._first_moment, self._second_moment, self._steps):
            state[rows] = 0
        self._weight_decay[rows] = config.weight_decay
        # The anchor is a mean over the token's vectors, and each row gets its own part of it here.
        self._anchor_weight[rows] = config.anchor_weight / len(initial)

    def embeddings(self) -> Tensor:
        return self.parameter

    def learned(self) -> Tensor:
        return self.parameter.detach()

    @torch.no_grad()
    def step(self, gradient: Tensor) -> RowMetrics:
        before, active = self.parameter.clone(), self.active.unsqueeze(-1)
        lr = self._lr.unsqueeze(-1)
        # A count of its own per row: bias correction must not depend on when a neighbour came.
        self._steps += active
        # Before the anchor is added: this norm tells whether the images reach the row.
        data_norm = torch.linalg.vector_norm(gradient, dim=-1)
        # At e = e_0 the distance has no gradient; torch's `normalize` returns zero there.
        gradient = gradient + self._anchor_weight * normalize(before - self._initial, dim=-1)
        for state, observed, beta in (
            (self._first_moment, gradient, self._BETA1),
            (self._second_moment, gradient.square(), self._BETA2),
        ):
            state.copy_(torch.where(active, beta * state + (1 - beta) * observed, state))
        mean = self._first_moment / _debias(self._BETA1, self._steps)
        spread = (self._second_moment / _debias(self._BETA2, self._steps)).sqrt() + self._EPS
        # Decoupled decay: it shrinks the row itself and does not pass through the moments.
        moved = (1 - lr * self._weight_decay) * before - lr * mean / spread
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
    """Return the optimizer of the config's method, with inactive rows like `vocabulary` [V, d]."""
    # At least float32. bfloat16 has a relative spacing of 2^-7, in which the last and smallest
    # steps of a decaying rate would be rounded away.
    dtype = torch.promote_types(vocabulary.dtype, torch.float32)
    table = torch.zeros(num_rows, vocabulary.shape[1], dtype=dtype, device=vocabulary.device)
    if config.method == "dti":
        return DirectionOptimizer(table, beta2=config.beta2)
    return AdamWOptimizer(table)


def _debias(beta: float, steps: Tensor) -> Tensor:
    """Return 1 - beta^steps; the plain form loses four digits in float32 while steps are few."""
    return -torch.expm1(math.log(beta) * steps)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Return the angle between free vectors in radians.

    torch's `normalize` leaves zero rows zero: unlike `sphere.normalize`, it neither raises nor
    reads from the device.
    """
    return sphere.geodesic_distance(normalize(a, dim=-1), normalize(b, dim=-1))
