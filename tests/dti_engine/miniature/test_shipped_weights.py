"""The weights that ship with the package."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

import dti_engine.miniature
from dti_engine.miniature.examine import examine
from dti_engine.miniature.model_card import write_card
from dti_engine.miniature.training.text_encoder import new_tokenizer, world_words

WEIGHTS = Path(dti_engine.miniature.__file__).parent / "weights"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not WEIGHTS.is_dir(), reason="no weights ship with this tree; make them with the recipe"
    ),
]


def test_they_are_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*")) <= 25e6


def test_plain_diffusers_opens_and_generates_with_them() -> None:
    # As the card says, so without a dtype: whatever the configs say must fit together.
    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    (image,) = pipeline("a dog", num_inference_steps=2, guidance_scale=4.0).images

    assert image.size == (64, 64)


def test_the_recipe_would_number_the_words_as_they_do() -> None:
    shipped = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer").get_vocab()
    remade = new_tokenizer(world_words()).get_vocab()

    # Pieces that only make up longer words may differ: no caption has them.
    for word in world_words():
        assert remade[f"{word}</w>"] == shipped[f"{word}</w>"]
    assert remade["<|endoftext|>"] == shipped["<|endoftext|>"]


def test_the_shipped_weights_generate_what_captions_ask_for() -> None:
    found = examine(WEIGHTS, count=40, steps=10, device=torch.device("cpu"))

    # Far below what the model card claims: 40 captions in few steps are a rough measure.
    assert found.tallies("generated")["background"].share >= 0.8
    assert found.tallies("generated")["object"].share >= 0.6
    assert found.tallies("drawn")["object"].share >= 0.85


def test_the_card_of_the_shipped_weights_has_the_recorded_figures(tmp_path: Path) -> None:
    copy = tmp_path / "weights"
    for file in WEIGHTS.rglob("*"):
        if file.suffix in (".json", ".safetensors"):
            target = copy / file.relative_to(WEIGHTS)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())

    write_card(copy)

    assert (copy / "README.md").read_text() == (WEIGHTS / "README.md").read_text()
