"""The numbers of slots that autotuning tries, and the one that it chooses."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dti_engine import devices
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.training import autotune
from dti_engine.training.autotune import (
    MAX_SLOTS,
    StepProfile,
    autotune_slots,
    ensure_slots_fit,
    fewest_fast_slots,
    search_sizes,
)

CONFIG = TrainConfig(steps=2, batch_size=2, resolution=16, lr=0.04)
MB, GB = 10**6, 10**9


class Heavy:
    """A backbone that holds 20 MB per sample while it denoises, and fails in batches too large."""

    def __init__(self, backbone: Backbone, max_rows: int = 10**6) -> None:
        self._backbone, self._most = backbone, max_rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, noisy: Tensor, *rest: Any) -> Tensor:
        if len(noisy) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        held = torch.ones(len(noisy), 5 * MB)
        return self._backbone.denoise(noisy + 0 * held[0, 0], *rest)


@pytest.fixture
def even_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes a tenth of a second, whatever its size, so that more is always faster."""

    def seconds(device: torch.device, call: Callable[[], object]) -> float:
        call()
        return 0.1

    monkeypatch.setattr(autotune, "measure_s", seconds)


class Machine:
    """Steps that take and need what we say; out of memory above `fails_above` slots."""

    def __init__(
        self,
        *,
        per_slot_s: float = 0.0,
        fixed_s: float = 1.0,
        per_slot: int = GB,
        fixed: int = 0,
        fails_above: int = 1000,
    ) -> None:
        self.tried: list[int] = []
        self._seconds, self._bytes = (fixed_s, per_slot_s), (fixed, per_slot)
        self._fails_above = fails_above

    def __call__(self, slots: int) -> StepProfile | None:
        self.tried.append(slots)
        if slots > self._fails_above:
            return None
        (fixed_s, per_slot_s), (fixed, per_slot) = self._seconds, self._bytes
        seconds = fixed_s + per_slot_s * slots
        return StepProfile(slots, fixed + per_slot * slots, slots / seconds)


def _measured(*seconds: tuple[int, float]) -> list[StepProfile]:
    return [StepProfile(slots, slots, slots / each) for slots, each in seconds]


# What is tried


@pytest.mark.parametrize(("at_most", "tried"), [(1, [1]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_sizes_double_up_to_the_number_of_subjects(at_most: int, tried: Sequence[int]) -> None:
    machine = Machine()
    measured, is_full = search_sizes(machine, max_slots=at_most, budget_bytes=1000 * GB)
    assert machine.tried == [each.slots for each in measured] == tried
    assert not is_full


@pytest.mark.parametrize("fixed", [0, 1, 5])
@pytest.mark.parametrize("slots", [7, 8, 11])
def test_a_size_is_tried_only_if_measurements_say_that_it_fits(slots: int, fixed: int) -> None:
    machine = Machine(fixed=fixed * GB)
    measured, is_full = search_sizes(machine, max_slots=32, budget_bytes=(fixed + slots) * GB)
    assert is_full
    assert measured[-1].slots == max(machine.tried) == slots


def test_of_one_size_alone_it_is_assumed_that_the_double_takes_the_double() -> None:
    machine = Machine(fixed=5 * GB)
    assert len(search_sizes(machine, max_slots=32, budget_bytes=11 * GB)[0]) == 1
    assert len(search_sizes(machine, max_slots=32, budget_bytes=12 * GB)[0]) > 1


def test_it_ends_once_a_larger_size_is_not_faster_by_5_percent_at_a_second_look_too() -> None:
    machine = Machine(fixed_s=0.2, per_slot_s=1)
    measured, is_full = search_sizes(machine, max_slots=32, budget_bytes=1000 * GB)
    assert [each.slots for each in measured] == [1, 2, 4]
    assert machine.tried == [1, 2, 4, 4]
    assert not is_full


def test_a_size_that_was_slow_by_chance_does_not_end_it() -> None:
    machine, slow = Machine(), iter([True])

    def trial(slots: int) -> StepProfile | None:
        found = machine(slots)
        assert found
        return found._replace(steps_per_s=0.01) if slots == 4 and next(slow, False) else found

    measured, _ = search_sizes(trial, max_slots=8, budget_bytes=1000 * GB)
    assert [each.slots for each in measured] == [1, 2, 4, 8]
    assert measured[2].steps_per_s == 4


def test_the_last_size_before_memory_ran_out_is_the_last() -> None:
    measured, is_full = search_sizes(Machine(fails_above=5), max_slots=32, budget_bytes=1000 * GB)
    assert ([each.slots for each in measured], is_full) == ([1, 2, 4], True)
    assert search_sizes(Machine(fails_above=0), max_slots=32, budget_bytes=1000 * GB) == ([], True)


def test_a_size_that_took_more_than_there_is_room_for_does_not_count() -> None:
    def trial(slots: int) -> StepProfile:
        return StepProfile(slots, GB * slots**2, slots)  # no prediction from smaller ones holds

    measured, is_full = search_sizes(trial, max_slots=32, budget_bytes=15 * GB)
    assert ([each.slots for each in measured], is_full) == ([1, 2], True)


# What is chosen


@pytest.mark.parametrize(
    ("num_subjects", "slots"),
    [
        (1000, 4),  # 8 would be faster by 2 % only
        (8, 4),
        (5, 5),  # 4 would leave 3 places empty in a second round
        (6, 6),
        (3, 3),
        (9, 3),  # three full rounds, better than 4 + 4 + 1
    ],
)
def test_the_fewest_slots_are_chosen_with_which_all_end_soonest(
    num_subjects: int, slots: int
) -> None:
    # As docs/results/speed.md has it of the miniature.
    measured = _measured((1, 1), (2, 2 / 1.27), (4, 4 / 1.42), (8, 8 / 1.45))
    assert fewest_fast_slots(
        [each for each in measured if each.slots <= 2 * num_subjects], num_subjects
    ) == (slots)


def test_all_subjects_at_once_are_best_where_size_costs_nothing() -> None:
    assert fewest_fast_slots(_measured((1, 1), (2, 1), (4, 1), (7, 1)), 7) == 7
    assert fewest_fast_slots(_measured((1, 1), (2, 2), (4, 4)), 4) == 1


# On a model


def test_with_one_subject_nothing_is_tried(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "profile_step", None)
    found = autotune_slots(tiny_backbone, CONFIG, num_subjects=1)
    assert (found.slots, found.measured, found.bytes_per_slot) == (1, (), None)
    assert found.available_bytes > 0


def test_a_number_below_1_is_refused(tiny_backbone: Backbone) -> None:
    with pytest.raises(ConfigurationError, match="num_subjects must be >= 1, got 0"):
        autotune_slots(tiny_backbone, CONFIG, num_subjects=0)


def test_real_steps_are_measured_up_to_the_number_of_subjects(tiny_backbone: Backbone) -> None:
    found = autotune_slots(tiny_backbone, CONFIG, num_subjects=3)
    assert 1 <= found.slots <= 3
    assert found.reason
    assert {each.slots for each in found.measured} <= {1, 2, 3}
    assert all(each.steps_per_s > 0 for each in found.measured)


@pytest.mark.usefixtures("even_times")
def test_the_number_of_subjects_and_the_largest_batch_limit_it(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = autotune_slots(tiny_backbone, CONFIG, num_subjects=6, available_bytes=100 * GB)
    assert (found.slots, found.reason) == (6, "all subjects at once")
    assert [each.slots for each in found.measured] == [1, 2, 4, 6]
    assert MAX_SLOTS == 32
    monkeypatch.setattr(autotune, "MAX_SLOTS", 3)
    found = autotune_slots(tiny_backbone, CONFIG, num_subjects=6, available_bytes=100 * GB)
    assert (found.slots, found.reason) == (3, "the largest number that auto takes")


@pytest.mark.skipif(not devices._status("VmHWM"), reason="a Mac has no peak that can be reset")
@pytest.mark.usefixtures("even_times")
def test_the_memory_that_it_may_take_limits_it(tiny_backbone: Backbone) -> None:
    backbone: Any = Heavy(tiny_backbone)  # 40 MB per slot
    room = int(5.7 * 40 * MB)
    found = autotune_slots(backbone, CONFIG, num_subjects=20, available_bytes=int(room / 0.85))
    assert found.slots in (4, 5)
    assert max(each.peak_bytes for each in found.measured) <= room
    assert found.bytes_per_slot == pytest.approx(40 * MB, rel=0.4)
    assert " free" in found.reason
    assert autotune_slots(backbone, CONFIG, num_subjects=20, available_bytes=1).slots == 1


@pytest.mark.usefixtures("even_times")
def test_memory_that_runs_out_in_a_trial_is_survived(tiny_backbone: Backbone) -> None:
    backbone: Any = Heavy(tiny_backbone, max_rows=6)
    found = autotune_slots(backbone, CONFIG, num_subjects=4, available_bytes=100 * GB)
    assert found.slots == 2
    assert [each.slots for each in found.measured] == [1, 2]
    assert " free" in found.reason


class Tight(Heavy):
    """One that fits only if it recomputes."""

    recompute = False

    def denoise(self, noisy: Tensor, *rest: Any) -> Tensor:
        self._most = 4 if self.recompute else 0
        return super().denoise(noisy, *rest)


def test_a_model_that_does_not_fit_otherwise_is_made_to_recompute(tiny_backbone: Backbone) -> None:
    backbone = Tight(tiny_backbone)
    found = autotune_slots(backbone, CONFIG, num_subjects=4, available_bytes=100 * GB)
    assert backbone.recompute
    assert found.measured[0].slots == 1
    assert found.slots in (1, 2)


def test_a_number_of_slots_that_is_given_is_tried_where_memory_may_run_out(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def profile_step(backbone: Backbone, *_: object, num_slots: int, **__: object) -> bool | None:
        return num_slots <= (2 if backbone.recompute else 1) or None

    monkeypatch.setattr(autotune, "profile_step", profile_step)
    monkeypatch.setattr(devices, "free_memory", lambda _: GB)
    monkeypatch.setattr(devices, "used_memory", lambda _: 0)
    on_cuda = Tight(tiny_backbone)
    on_cuda.device = torch.device("cuda")
    ensure_slots_fit(on_cuda, CONFIG, num_slots=1)
    assert not on_cuda.recompute
    ensure_slots_fit(on_cuda, CONFIG, num_slots=2)
    assert on_cuda.recompute
    with pytest.raises(ConfigurationError, match=r"with 3 subjects of batch size 2 at 16 px"):
        ensure_slots_fit(on_cuda, CONFIG, num_slots=3)
    on_cpu = Tight(tiny_backbone)
    ensure_slots_fit(on_cpu, CONFIG, num_slots=3)
    assert not on_cpu.recompute


def test_memory_that_runs_out_with_one_subject_is_an_error_that_says_what_to_do(
    tiny_backbone: Backbone,
) -> None:
    backbone: Any = Heavy(tiny_backbone, max_rows=1)
    with pytest.raises(
        ConfigurationError, match=r"one subject of batch size 2 at 16 px.* make one of these"
    ):
        autotune_slots(backbone, CONFIG, num_subjects=4)
