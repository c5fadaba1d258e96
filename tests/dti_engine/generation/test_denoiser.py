"""Images that join and leave each other at any step come out as they would alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.generation.denoiser import (
    Denoiser,
    DenoisingState,
    ImageRequest,
    begin,
    decode,
    to_image,
)
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.generation.scheduler import LinearScheduler
from dti_engine.text.tokens import LearnedToken

ROUNDING = 1e-4


def token() -> LearnedToken:
    return LearnedToken("<rex>", {"text_encoder": torch.randn(1, 32)})


def order(seed: int, guidance: float = 3.0) -> ImageRequest:
    return ImageRequest(f"a <rex> number {seed}", seed, {"<rex>": token()}, guidance=guidance)


def start(
    backbone: Backbone, requests: Sequence[ImageRequest], steps: int = 6, size: int = 16
) -> list[DenoisingState]:
    sampler = LinearScheduler.of(backbone.new_scheduler(), steps)
    return begin(backbone, PromptCache(backbone), requests, sampler, (size, size))


def run(backbone: Backbone, requests: Sequence[ImageRequest], steps: int = 6) -> list[Tensor]:
    batch, denoiser = start(backbone, requests, steps), Denoiser(backbone)
    while not batch[0].finished:
        denoiser.step(batch)
    return [each.latents for each in batch]


class Spy:
    """A backbone that notes the shapes of its calls, and breaks where it is told to."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.rows: list[int] = []
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        if self.broken:
            raise RuntimeError("broken")
        assert len(noisy) == len(timesteps) == len(conditioning.hidden)
        self.rows.append(len(noisy))
        return self._backbone.denoise(noisy, timesteps, conditioning)


def test_one_that_joins_later_and_takes_other_steps_comes_out_as_alone(
    tiny_backbone: Backbone,
) -> None:
    early, late = order(0), order(1, guidance=1.0)
    (alone_early,), (alone_late,) = run(tiny_backbone, [early]), run(tiny_backbone, [late], 4)
    first, second = start(tiny_backbone, [early]), start(tiny_backbone, [late], steps=4)
    denoiser = Denoiser(tiny_backbone)
    for _ in range(3):
        denoiser.step(first)
    for _ in range(3):
        denoiser.step([*second, *first])
    assert first[0].finished
    denoiser.step(second)
    assert second[0].finished
    torch.testing.assert_close(first[0].latents, alone_early, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(second[0].latents, alone_late, rtol=0, atol=ROUNDING)
    assert (alone_early - alone_late).abs().max() > 100 * ROUNDING


def test_at_one_shape_neighbours_and_their_steps_change_no_bit(tiny_backbone: Backbone) -> None:
    request, others = order(0), [order(seed) for seed in range(1, 6)]
    results: list[Tensor] = []
    for neighbours in (others[:2], others[3:]):
        state, beside = start(tiny_backbone, [request]), start(tiny_backbone, neighbours, steps=50)
        denoiser = Denoiser(tiny_backbone)
        for _ in range(7 * len(results)):  # where the others are differs, too
            denoiser.step(beside)
        while not state[0].finished:
            denoiser.step([beside[0], *state, beside[1]])
        results.append(state[0].latents)
    assert torch.equal(*results)


def test_only_the_guided_take_a_second_row(tiny_backbone: Backbone) -> None:
    spy: Any = Spy(tiny_backbone)
    denoiser = Denoiser(spy)
    batch = start(spy, [order(0), order(1, guidance=1.0), order(2)])
    denoiser.step(batch)
    denoiser.step(batch[1:2])
    assert spy.rows == [5, 1]
    assert [each.steps_done for each in batch] == [1, 2, 1]


def test_rows_are_added_up_to_a_shape_and_thrown_away(tiny_backbone: Backbone) -> None:
    requests = [order(0), order(1, guidance=1.0)]
    plain = run(tiny_backbone, requests)
    spy: Any = Spy(tiny_backbone)
    denoiser, batch = Denoiser(spy, shapes=(2, 8)), start(spy, requests)
    while not batch[0].finished:
        denoiser.step(batch)
    assert set(spy.rows) == {8}
    for each, expected in zip(batch, plain, strict=True):
        torch.testing.assert_close(each.latents, expected, rtol=0, atol=ROUNDING)
    spy.rows.clear()
    denoiser.step(start(spy, [order(seed) for seed in range(5)]))  # more than the largest
    assert spy.rows == [10]


def test_a_step_that_breaks_changes_nothing(tiny_backbone: Backbone) -> None:
    spy: Any = Spy(tiny_backbone)
    denoiser, batch = Denoiser(spy), start(spy, [order(0), order(1)])
    denoiser.step(batch)
    before = [each.latents.clone() for each in batch]
    spy.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        denoiser.step(batch)
    assert [each.steps_done for each in batch] == [1, 1]
    assert all(map(torch.equal, before, [each.latents for each in batch]))
    spy.broken = False
    while not batch[0].finished:
        denoiser.step(batch)


def test_a_prediction_says_where_an_image_is_heading(tiny_backbone: Backbone) -> None:
    batch, denoiser = start(tiny_backbone, [order(0), order(1)]), Denoiser(tiny_backbone)
    prediction = None
    while not batch[0].finished:
        prediction = denoiser.step(batch)
    assert prediction
    # The last step goes all the way to what is predicted, but for what little noise is left.
    heading = prediction.latents([1])
    assert heading.shape == (1, *batch[1].latents.shape)
    torch.testing.assert_close(heading[0], batch[1].latents, rtol=0.1, atol=0.1)
    assert (heading[0] - batch[0].latents).abs().max() > 0.5


def test_images_of_a_batch_are_decoded_in_order(tiny_backbone: Backbone) -> None:
    batch = start(tiny_backbone, [order(0), order(1)])
    images = [to_image(pixels) for pixels in decode(tiny_backbone, batch)]
    assert [image.size for image in images] == [(16, 16)] * 2
    assert images[0].tobytes() != images[1].tobytes()
    assert list(decode(tiny_backbone, [])) == []
