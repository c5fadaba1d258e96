"""The plain loop changes only the new row of a vocabulary, as diffusers' scripts do."""

import random
from pathlib import Path

import pytest
import torch

from benchmarks.models.random_models import load_pipeline, open_model
from benchmarks.training.contenders import draw_images
from benchmarks.training.plain_loop import PlainLoop

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def plain_loop(name: str, folder: Path, dtype: torch.dtype) -> PlainLoop:
    checkpoint = open_model(name, folder / "model", device=CPU, small=True)
    return PlainLoop(
        load_pipeline(checkpoint, device=CPU, dtype=dtype),
        draw_images(folder / "images", 64),
        ["a photo of a {}"],
        initializer="a",
        resolution=64,
        batch_size=2,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["miniature", "sd21", "sdxl"])
def test_a_step_moves_the_new_row_and_leaves_all_others_bit_for_bit(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    loop = plain_loop(name, tmp_path, dtype)
    for _ in range(2):
        assert loop.step().isfinite()
    for encoder, original in zip(loop.encoders, loop.originals, strict=True):
        table = encoder.get_input_embeddings().weight.detach()
        assert torch.equal(table[:-1], original[:-1])
        assert (table[-1] != original[-1]).any()


def test_the_parts_have_the_dtypes_of_the_scripts(tmp_path: Path) -> None:
    loop = plain_loop("sdxl", tmp_path, torch.bfloat16)
    assert [encoder.dtype for encoder in loop.encoders] == [torch.float32, torch.bfloat16]


def test_gradient_checkpointing_does_not_change_the_loss(tmp_path: Path) -> None:
    losses: list[float] = []
    for recompute in (False, True):
        loop = plain_loop("sd15", tmp_path / str(recompute), torch.float32)
        if recompute:
            loop.recompute()
        random.seed(0)  # flips and captions
        torch.manual_seed(0)
        losses.append(float(loop.step()))
    assert losses[0] == pytest.approx(losses[1])
