"""Random models have the published configurations, and every family of them works."""

from pathlib import Path

import pytest
import torch

from benchmarks.models.random_models import description, load_engine, load_pipeline, open_model
from benchmarks.models.random_tokenizers import PROMPT, clip_tokenizer, gemma_tokenizer
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.registry import published
from dti_engine.backbones.sana import instruction
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.recipes import sd
from dti_engine.training.autotune import full_trainer

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def engine(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    checkpoint = open_model(name, folder, device=CPU, small=True)
    return load_engine(checkpoint, device=CPU, dtype=dtype)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "sana-1.6b"])
def test_every_family_trains_and_generates_at_small_size(name: str, tmp_path: Path) -> None:
    backbone = engine(name, tmp_path)
    config = sd().changed(resolution=backbone.image_size, batch_size=2)
    trainer = full_trainer(backbone, config, num_slots=2)
    before = {each: optimizer.learned() for each, optimizer in trainer.optimizers.items()}
    trainer.step()
    for each, optimizer in trainer.optimizers.items():
        active = optimizer.active
        assert optimizer.learned().isfinite().all()
        assert (optimizer.learned()[active] != before[each][active]).any(dim=-1).all()
    (image,) = generate(backbone, [ImageRequest("a photo", seed=0)], steps=2)
    assert image.size == (backbone.image_size, backbone.image_size)


def test_parts_are_created_in_the_requested_dtype(tmp_path: Path) -> None:
    checkpoint = open_model("sdxl", tmp_path, device=CPU, small=True)
    pipeline = load_pipeline(checkpoint, device=CPU, dtype=torch.bfloat16)
    for part in ("text_encoder", "text_encoder_2", "unet", "vae"):
        model = getattr(pipeline, part)
        assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
        assert not any(each.is_meta for each in model.buffers())
    assert torch.get_default_dtype() == torch.float32


def test_weights_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = (engine("sd15", tmp_path / number) for number in "12")
    assert first.fingerprint == second.fingerprint


def test_configurations_of_full_size_are_the_published_ones(tmp_path: Path) -> None:
    for name in ("sd15", "sdxl", "sana-1.6b"):
        opened = description(open_model(name, tmp_path / name, device=CPU))
        for part in published(name).parts:
            assert opened.configuration(part.name) == published(name).configuration(part.name)


def test_tokenizers_have_the_published_size_and_one_token_for_a_word() -> None:
    text = PROMPT.replace("{}", "")
    for tokenizer in (clip_tokenizer(49408), clip_tokenizer(49408, pad_with_mark=True)):
        assert len(tokenizer) == 49408
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49406, 49407)
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(text.split())
    gemma = gemma_tokenizer(256000)
    assert len(gemma) == 256000
    ids = gemma(f"{instruction().lower()} {text}", add_special_tokens=False)["input_ids"]
    assert len(ids) < 2 * len(f"{instruction()} {text}".split())
