"""SDXL against diffusers' own pipeline, which is what its files are made for."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import export
from dti_engine.artifacts.importers import import_token
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.config import Pooling, TrainConfig
from dti_engine.errors import ModelLoadError
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.images.decode import SubjectImage
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.text.prompts import bind
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.loop import Subject, train

PROMPTS = ["a photo of a red dog on the beach", "dog, cat & bird!", "dog " * 100]


@pytest.fixture(scope="module")
def weights(make_sdxl_checkpoint: Callable[..., Path]) -> Path:
    return make_sdxl_checkpoint()


@pytest.fixture(scope="module")
def backbone(weights: Path) -> Backbone:
    return load_backbone(weights)


@pytest.fixture
def pipeline(weights: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(weights, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def token(placeholder: str = "<rex>", num_vectors: int = 1, pooling: Pooling = "eos"):
    rows = {"text_encoder": torch.randn(num_vectors, 32)}
    rows |= {"text_encoder_2": torch.randn(num_vectors, 48)}
    return LearnedToken(placeholder, rows, pooling)


def encode(backbone: Backbone, prompt: str, *tokens: LearnedToken) -> Conditioning:
    bound = bind([prompt], [{each.placeholder: each for each in tokens}], backbone.text_encoders)
    return backbone.encode_prompts(*bound)


def load_into(
    pipeline: StableDiffusionXLPipeline, learned: LearnedToken, folder: Path, backbone: Backbone
) -> None:
    """Export the token and load it by diffusers' own loader, once per encoder."""
    origin = ImportedOrigin(format_name="diffusers", pooling=learned.pooling, files={})
    artifact = Artifact.of(
        learned, model=backbone.name, fingerprint=backbone.fingerprint, origin=origin
    )
    name = learned.placeholder.strip("<>")
    exported = export(artifact, folder / f"{name}.safetensors", "diffusers")
    files = exported.files
    assert (exported.note is not None) == (learned.pooling == "eos")
    parts = (
        (pipeline.text_encoder, pipeline.tokenizer),
        (pipeline.text_encoder_2, pipeline.tokenizer_2),
    )
    for file, (text_encoder, tokenizer) in zip(files, parts, strict=True):
        pipeline.load_textual_inversion(
            load_file(file), text_encoder=text_encoder, tokenizer=tokenizer
        )


def assert_equal(found: Conditioning, hidden: Tensor, pooled: Tensor) -> None:
    assert found.pooled is not None
    torch.testing.assert_close(found.hidden, hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled, pooled, rtol=0, atol=1e-5)


# Prompts


def test_encoders_have_the_names_of_their_parts_in_the_order_of_the_pipeline(
    backbone: Backbone,
) -> None:
    assert list(backbone.text_encoders) == ["text_encoder", "text_encoder_2"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_are_encoded_as_in_diffusers(
    backbone: Backbone, pipeline: StableDiffusionXLPipeline, prompt: str
) -> None:
    hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    assert_equal(encode(backbone, prompt), hidden, pooled)


@pytest.mark.parametrize("force_zeros", [True, False])
def test_an_empty_prompt_is_encoded_like_no_negative_prompt(
    make_sdxl_checkpoint: Callable[..., Path], force_zeros: bool
) -> None:
    weights = make_sdxl_checkpoint(force_zeros)
    pipeline = StableDiffusionXLPipeline.from_pretrained(weights, low_cpu_mem_usage=False)
    _, hidden, _, pooled = pipeline.encode_prompt("a dog", do_classifier_free_guidance=True)
    assert bool(hidden.any()) is not force_zeros
    assert_equal(encode(load_backbone(weights), ""), hidden, pooled)


@pytest.mark.parametrize("num_vectors", [1, 3])
@pytest.mark.parametrize("pooling", ["legacy", "eos"])
def test_an_exported_token_reads_in_diffusers_as_here_under_the_same_pooling(
    backbone: Backbone,
    pipeline: StableDiffusionXLPipeline,
    tmp_path: Path,
    num_vectors: int,
    pooling: Pooling,
) -> None:
    """Its own pooling is the legacy one, as the published configs have it."""
    learned, prompt = token(num_vectors=num_vectors, pooling=pooling), "a <rex> on the beach"
    load_into(pipeline, learned, tmp_path, backbone)
    if pooling == "eos":  # what the export says is to be done
        pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    assert_equal(encode(backbone, prompt, learned), hidden, pooled)
    other = replace(learned, pooling="eos" if pooling == "legacy" else "legacy")
    assert not torch.allclose(encode(backbone, prompt, other).pooled, pooled, atol=1e-3)


def test_of_two_legacy_tokens_the_one_bound_last_is_pooled_at(
    backbone: Backbone, pipeline: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    tokens = token("<rex>", pooling="legacy"), token("<ana>", pooling="legacy")
    for each in tokens:
        load_into(pipeline, each, tmp_path, backbone)
    for prompt in ("a <rex> and <ana> on the beach", "<ana> and a <rex>", "one <rex>"):
        hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        assert_equal(encode(backbone, prompt, *tokens), hidden, pooled)


def test_one_batch_mixes_both_poolings(backbone: Backbone) -> None:
    tokens = [token(pooling="legacy"), token(pooling="eos")]
    prompts = ["a <rex> on the beach"] * 2
    bound = bind(prompts, [{"<rex>": each} for each in tokens], backbone.text_encoders)
    together = backbone.encode_prompts(*bound).pooled
    alone = [encode(backbone, *each).pooled for each in zip(prompts, tokens, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_a_prompt_with_tokens_of_both_poolings_is_summed_up_at_its_end(backbone: Backbone) -> None:
    tokens = token("<rex>", pooling="legacy"), token("<ana>", pooling="eos")
    prompt = "a <rex> and <ana> on the beach"
    both_eos = [replace(each, pooling="eos") for each in tokens]
    assert torch.equal(
        encode(backbone, prompt, *tokens).pooled, encode(backbone, prompt, *both_eos).pooled
    )
    only = "a <rex> on the beach"  # what the other token wants does not count where it is not
    assert torch.equal(
        encode(backbone, only, *tokens).pooled, encode(backbone, only, tokens[0]).pooled
    )


def test_the_pooled_output_depends_on_words_after_the_token(backbone: Backbone) -> None:
    """Legacy pooling loses this: under causal attention the token sees no later word."""
    texts = ["a <rex> on the beach", "a <rex> in the snow"]
    for pooling, is_seen in (("legacy", False), ("eos", True)):
        torch.manual_seed(1)
        learned = token(pooling=pooling)
        one, other = (encode(backbone, text, learned).pooled for text in texts)
        assert torch.equal(one, other) is not is_seen


# Images


def test_an_image_is_that_of_diffusers(
    backbone: Backbone, pipeline: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    """A token, guidance and a wide format test prompts, sizes, scheduler and decoder together."""
    learned, height, width = token(pooling="legacy"), 16, 32
    load_into(pipeline, learned, tmp_path, backbone)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    noise = torch.randn(1, 4, height // 2, width // 2, generator=torch.Generator().manual_seed(7))
    options = {"latents": noise, "guidance_scale": 4.0, "num_inference_steps": 5}
    expected = pipeline(
        "a <rex> on the beach", height=height, width=width, output_type="np", **options
    ).images[0]
    request = ImageRequest("a <rex> on the beach", seed=7, tokens={"<rex>": learned}, guidance=4.0)
    (found,) = generate(backbone, [request], steps=5, height=height, width=width)
    difference = np.asarray(found) / 255 - expected
    assert float(abs(difference).max()) <= 1 / 255


def test_the_denoiser_gets_the_sizes(backbone: Backbone) -> None:
    bound = bind(["a dog"] * 2, [{}] * 2, backbone.text_encoders)
    latents, t = torch.randn(1, 4, 8, 8).expand(2, -1, -1, -1), torch.tensor([500, 500])
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16], [3024, 4032, 0, 128, 16, 16]])
    whole, part = backbone.denoise(latents, t, backbone.encode_prompts(*bound, sizes))
    assert not torch.allclose(whole, part, atol=1e-4)
    unsaid, _ = backbone.denoise(latents, t, backbone.encode_prompts(*bound))
    assert torch.equal(unsaid, whole)


# Training


CONFIG = TrainConfig(steps=3, batch_size=2, resolution=16, lr=0.1)


def subject(tmp_path: Path) -> Subject:
    image = SubjectImage("a.png", Image.new("RGB", (24, 16), "red"), "0" * 64, (24, 16))
    return Subject("rex", [image], "<rex>", "stuffed animal", seed=1)


@pytest.mark.parametrize("pooling", ["eos", "legacy"])
def test_a_token_is_learned_saved_and_generated_as_it_was_read(
    backbone: Backbone, tmp_path: Path, pooling: Pooling
) -> None:
    config = CONFIG.changed(pooling=pooling)
    (outcome,) = train(backbone, [subject(tmp_path)], config, num_slots=2)
    assert outcome.artifact is not None
    outcome.artifact.save(tmp_path / "rex.safetensors")
    loaded = Artifact.load(tmp_path / "rex.safetensors")
    assert loaded.token.pooling == pooling
    assert loaded.manifest.training is not None
    assert loaded.manifest.training.pooling == pooling
    assert loaded.manifest.num_vectors == {"text_encoder": 2, "text_encoder_2": 2}
    for name, encoder in backbone.text_encoders.items():
        start = vocabulary_magnitude(encoder)
        lengths = loaded.token.embeddings[name].norm(dim=-1)
        torch.testing.assert_close(lengths, torch.full((2,), start), rtol=1e-5, atol=0)
    request = ImageRequest("a photo of <rex>", seed=1, tokens={"<rex>": loaded.token})
    assert len(generate(backbone, [request], steps=2)) == 1


def test_the_pooling_of_training_is_that_of_serving(backbone: Backbone, tmp_path: Path) -> None:
    """The two differ in what is learned, so a recipe's choice reaches the gradient."""
    learned = {}
    for pooling in ("eos", "legacy"):
        config = CONFIG.changed(pooling=pooling)
        (outcome,) = train(backbone, [subject(tmp_path)], config, num_slots=1)
        assert outcome.artifact is not None
        learned[pooling] = outcome.artifact.token.embeddings["text_encoder_2"]
    assert not torch.allclose(learned["eos"], learned["legacy"], atol=1e-3)


def test_a_token_of_another_program_pools_at_the_token(backbone: Backbone, tmp_path: Path) -> None:
    origin = ImportedOrigin(format_name="diffusers", pooling="legacy", files={})
    artifact = Artifact.of(
        token(pooling="legacy"), model="xl", fingerprint=backbone.fingerprint, origin=origin
    )
    files = export(artifact, tmp_path / "rex.safetensors", "diffusers").files
    imported = import_token(files, backbone)
    imported.save(tmp_path / "kept.safetensors")
    assert Artifact.load(tmp_path / "kept.safetensors").token.pooling == "legacy"


# Loading


def test_layers_in_bfloat16_leave_the_table_and_its_fingerprint_as_they_are(
    backbone: Backbone, weights: Path
) -> None:
    half = load_backbone(weights, dtype=torch.bfloat16)
    assert half.fingerprint == backbone.fingerprint
    for name, encoder in half.text_encoders.items():
        assert torch.equal(encoder.vocabulary(), backbone.text_encoders[name].vocabulary())
        assert {p.dtype for layer in encoder.layers for p in layer.parameters()} == {torch.bfloat16}
    found, expected = encode(half, PROMPTS[0]), encode(backbone, PROMPTS[0])
    assert found.hidden.dtype == torch.float32
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=0.05, atol=0.05)
    assert not torch.equal(found.hidden, expected.hidden)


def test_an_autoencoder_that_overflows_in_half_precision_stays_single(weights: Path) -> None:
    backbone = load_backbone(weights, dtype=torch.float16)
    assert backbone.dtype == torch.float16
    assert {each.dtype for each in backbone._vae.parameters()} == {torch.float32}


def test_images_are_encoded_in_single_precision_for_every_dtype(
    backbone: Backbone, weights: Path
) -> None:
    """They are encoded once, and learned from in every step."""
    half = load_backbone(weights, dtype=torch.bfloat16)
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(half.encode_images(pixels).mean, backbone.encode_images(pixels).mean)
    latents = torch.randn(1, 4, 8, 8)
    assert not torch.equal(half.decode_latents(latents), backbone.decode_latents(latents))


def test_tokenizers_of_different_vocabularies_are_refused(
    weights: Path, tmp_path: Path, make_tokenizer: Callable[..., CLIPTokenizer]
) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_2" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["dog</w>"], vocabulary["cat</w>"] = vocabulary["cat</w>"], vocabulary["dog</w>"]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelLoadError, match=r"different vocabularies.*another model"):
        load_backbone(tmp_path)


def test_a_refiner_is_refused_by_that_name(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    config = UNet2DConditionModel.load_config(tmp_path / "unet")
    refiner = UNet2DConditionModel.from_config(config, projection_class_embeddings_input_dim=64)
    refiner.save_pretrained(tmp_path / "unet")
    with pytest.raises(ModelLoadError, match=r"takes 64 values.*refiners are not supported"):
        load_backbone(tmp_path)
