"""The metrics of each step, and those that mean failure."""

import math

import pytest
import torch
from small_training import CONFIG, ENCODER, SHORT, MakeSubject, learned

from dti_engine.backbones.interface import Backbone
from dti_engine.optim import sphere
from dti_engine.optim.embeddings import DirectionOptimizer
from dti_engine.text.encoder import initializer_rows
from dti_engine.training.loop import train
from dti_engine.training.metrics import StepMetrics, tabulate


def _report(**changes: float) -> StepMetrics:
    good = {
        "elapsed_s": 1.0,
        "loss": 1.0,
        "fixed_loss": 0.9,
        "prior_angle_rad": 0.1,
        "step_angle_rad": 0.04,
        "norm": 0.4,
    }
    gradient = {"prior_ratio": 0.1, "gradient_norm": 1e-3, "weakest_gradient_norm": 1e-4}
    return StepMetrics("rex", 7, **(good | gradient | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": math.nan}, "its loss is nan"),
        ({"loss": math.inf, "gradient_norm": math.nan}, "its loss is inf"),
        ({"fixed_loss": math.nan}, "nan on its fixed batch"),
        ({"gradient_norm": math.nan}, "gradient is nan"),
        ({"gradient_norm": math.inf}, "gradient is inf"),
        ({"weakest_gradient_norm": 0.0}, "exactly zero"),
    ],
)
def test_a_step_that_is_not_finite_or_has_no_gradient_is_a_failure(
    changes: dict[str, float], message: str
) -> None:
    failure = _report(**changes).failure()
    assert failure is not None
    assert message in failure
    assert "float32 or bfloat16" in failure


def test_a_prior_that_drowns_the_data_is_a_failure() -> None:
    failure = _report(step_angle_rad=0.0, prior_ratio=1e6).failure()
    assert failure is not None
    assert "the prior is 1.0e+06 times the gradient" in failure


def test_a_good_step_is_no_failure() -> None:
    assert _report().failure() is None
    assert _report(weakest_gradient_norm=1e-40).failure() is None


def test_figures_are_everything_measured() -> None:
    figures = _report().values()
    assert figures["loss"] == 1.0
    assert {"subject_id", "step"}.isdisjoint(figures)
    assert figures["fixed_loss"] == 0.9
    assert len(figures) == 9


def test_figures_of_a_slot_are_over_the_rows_of_its_subject_alone() -> None:
    first, second = (
        DirectionOptimizer(torch.zeros(4, 8)) for _ in range(2)
    )  # two slots of two rows, in two encoders
    first.add_rows(slice(2, 4), torch.eye(8)[:2], CONFIG.changed(kappa=0.1))
    second.add_rows(slice(2, 3), 5 * torch.eye(8)[:1], CONFIG.changed(kappa=0.1))
    moved = [
        each.step(torch.full((4, 8), 1.0) * scale) for each, scale in ((first, 1), (second, 4))
    ]
    losses, fixed_losses = torch.tensor([math.nan, 3.0]), torch.tensor([math.nan, 2.0])
    table = tabulate(losses, fixed_losses, [first, second], moved)
    *of_slot, prior_ratio, gradient_norm, weakest = table[1].tolist()
    loss, fixed_loss, prior_angle, step_angle, norm = of_slot
    unit = math.sqrt(8)  # |g| in the first encoder; four times as much in the second
    assert (loss, fixed_loss) == (3, 2)
    assert prior_angle == pytest.approx(math.atan(0.04), abs=1e-6)
    assert step_angle == pytest.approx(math.atan(0.04), abs=1e-6)
    assert norm == pytest.approx((1 + 1 + 5) / 3)
    assert prior_ratio == pytest.approx(0.1 * (1 + 1 + 1 / 4) / unit / 3)
    assert gradient_norm == pytest.approx((1 + 1 + 4) * unit / 3)
    assert weakest == pytest.approx(unit)


def test_reports_come_in_batches_that_change_no_result(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subjects = [make_subject(1), make_subject(2)]
    batches: list[list[StepMetrics]] = []
    often = train(tiny_backbone, subjects, SHORT, num_slots=2)
    rarely = list(
        train(tiny_backbone, subjects, SHORT, num_slots=2, flush_every=3, on_step=batches.append)
    )
    assert [len(batch) for batch in batches] == [6, 2]
    for a, b in zip(often, rarely, strict=True):
        assert torch.equal(learned(a), learned(b))
        assert a.metrics == b.metrics
    first, second = (each.metrics for each in rarely)
    assert batches == [[*first[:3], *second[:3]], [first[3], second[3]]]


def test_a_report_tells_loss_angle_gradient_and_time(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    (result,) = train(tiny_backbone, [make_subject(1)], SHORT, num_slots=1)
    last = result.metrics[-1]
    initial = initializer_rows(tiny_backbone.text_encoders[ENCODER], "dog")
    turned = sphere.geodesic_distance(*map(sphere.normalize, (initial, learned(result))))
    assert last.prior_angle_rad == pytest.approx(turned.item(), abs=1e-6)
    assert last.prior_ratio == pytest.approx(SHORT.kappa / last.gradient_norm)
    assert last.weakest_gradient_norm == last.gradient_norm
    assert 0.1 < last.loss < 10
    assert 0.1 < last.fixed_loss < 10
    seconds = [report.elapsed_s for report in result.metrics]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
