"""The learning rate over the steps of a subject; `test_trainer` tests the steps themselves."""

from itertools import pairwise

import pytest

from dti_engine.config import TrainConfig
from dti_engine.training.schedules import learning_rate

CONFIG = TrainConfig(steps=100, batch_size=1, resolution=8, lr=0.04)


def test_a_constant_rate_stays() -> None:
    assert {learning_rate(CONFIG, step) for step in range(100)} == {0.04}


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_a_cosine_starts_at_the_rate_of_the_config_and_falls_all_along(steps: int) -> None:
    config = CONFIG.changed(schedule="cosine", steps=steps)
    rates = [learning_rate(config, step) for step in range(steps)]
    assert rates[0] == 0.04
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert rates[-1] > 0  # no step is for nothing


def test_a_cosine_is_half_the_rate_at_half_the_steps_and_ends_near_zero() -> None:
    config = CONFIG.changed(schedule="cosine")
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[50] == pytest.approx(0.02)
    assert rates[25] == pytest.approx(0.02 * (1 + 0.5**0.5))
    assert 0 < rates[99] < 0.04 / 1000
    assert rates[100] == pytest.approx(0)
    assert sum(rates[:100]) / 100 == pytest.approx(0.02, rel=0.02)  # on the whole, half the way
