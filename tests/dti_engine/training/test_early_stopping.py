"""Training ends when looks at the fixed batch have brought nothing for a while."""

from collections.abc import Callable

import pytest
import torch

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.training.loop import Subject, train
from dti_engine.training.schedules import has_converged

CONFIG = TrainConfig(
    steps=40, batch_size=2, resolution=16, lr=0.04, ema_decay=0.9, eval_every=4, patience=2
)
ENCODER = "text_encoder"


@pytest.mark.parametrize(
    ("losses", "converged"),
    [
        ([1.0, 0.9], False),  # too few to tell
        ([1.0, 1.0, 1.0], True),  # nothing was ever gained
        ([1.0, 0.5, 0.4, 0.3], False),
        ([1.0, 0.5, 0.495, 0.492], True),  # 0.008 of 0.5 is less than 2 %
        ([1.0, 0.5, 0.49, 0.488], False),  # 0.012 is more
        ([1.0, 0.5, 0.6, 0.7], True),  # it rises
        ([1.0, 0.5, 0.6, 0.4], False),  # the last look may bring it
        ([1.0, 1.1, 1.2, 0.9], False),
    ],
)
def test_fixed_losses_without_improvement_end_the_training(
    losses: list[float], converged: bool
) -> None:
    assert has_converged(losses, CONFIG) is converged


def test_without_patience_nothing_ends_it() -> None:
    assert not has_converged([1.0] * 50, CONFIG.changed(patience=0))


@pytest.mark.parametrize("flush_every", [1, 3, 7])
def test_a_subject_that_has_converged_ends_there_and_its_neighbours_go_on(
    tiny_backbone: Backbone, make_subject: Callable[..., Subject], flush_every: int
) -> None:
    patient = CONFIG.changed(patience=0, steps=16)
    # 90 % of the fall so far is hardly ever gained again.
    subjects = [
        make_subject(0, config=CONFIG.changed(min_improvement=0.9)),
        make_subject(1, config=patient),
        make_subject(2, config=CONFIG.changed(min_improvement=0.9)),
    ]
    outcomes = {
        each.subject.id: each
        for each in train(tiny_backbone, subjects, CONFIG, num_slots=2, flush_every=flush_every)
    }
    for name in ("subject-0", "subject-2"):
        training = outcomes[name].artifact.manifest.training
        assert training.stop_reason == "converged"
        assert training.steps_done % 4 == 0
        assert training.steps_done < 40
        assert training.steps_done == len(outcomes[name].metrics)
        losses = [training.first_fixed_loss, *(r.fixed_loss for r in outcomes[name].metrics[3::4])]
        assert has_converged(losses, training.config)
        assert not has_converged(losses[:-1], training.config)
    neighbour = outcomes["subject-1"].artifact
    assert neighbour.manifest.training.stop_reason == "budget"
    (alone,) = train(tiny_backbone, subjects[1:2], CONFIG, num_slots=2)
    assert torch.equal(
        neighbour.token.embeddings[ENCODER], alone.artifact.token.embeddings[ENCODER]
    )
