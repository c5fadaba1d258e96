"""The parts that only SANA has: images against diffusers', flows, latents and refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.objectives import FlowMatchingObjective
from dti_engine.config import TrainConfig
from dti_engine.errors import ModelLoadError, TokenError
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.text.prompts import bind
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.loop import Subject, train

CONFIG = TrainConfig(
    steps=6, batch_size=2, resolution=32, lr=0.05, kappa=5e-5, shift=3.0, timesteps="stratified"
)


@pytest.fixture(scope="module")
def weights(make_sana_checkpoint: Callable[..., Path]) -> Path:
    return make_sana_checkpoint()


@pytest.fixture(scope="module")
def backbone(weights: Path) -> Backbone:
    return load_backbone(weights)


@pytest.fixture
def changed(weights: Path, tmp_path: Path) -> Path:
    """Return a copy to change."""
    return Path(shutil.copytree(weights, tmp_path / "changed"))


# Images


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("instructed", [True, False])
def test_an_image_is_the_one_that_diffusers_generates(
    backbone: Backbone, weights: Path, instructed: bool, guidance: float
) -> None:
    pipeline = SanaPipeline.from_pretrained(weights, low_cpu_mem_usage=False)
    pipeline.text_encoder.set_attn_implementation("eager")
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline.set_progress_bar_config(disable=True)
    shape = backbone.latent_shape(32, 64)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    options = {} if instructed else {"complex_human_instruction": None}
    (expected,) = pipeline(
        "A red dog on the beach",
        negative_prompt="dark",
        guidance_scale=guidance,
        num_inference_steps=5,
        height=32,
        width=64,
        latents=noise[None],
        use_resolution_binning=False,
        **options,
    ).images
    request = ImageRequest(
        "A red dog on the beach",
        seed=7,
        negative_prompt="dark",
        guidance=guidance,
        instruction=instructed,
    )
    (image,) = generate(backbone, [request], steps=5, height=32, width=64)
    difference = np.asarray(image).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1
    assert np.asarray(image).std() > 10


def test_images_with_and_without_the_instruction_share_a_batch(backbone: Backbone) -> None:
    requests = [ImageRequest("a red dog", 3, instruction=each) for each in (True, False)]
    together = generate(backbone, requests, steps=3)
    alone = [generate(backbone, [request], steps=3)[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    assert not np.array_equal(*map(np.asarray, together))


def test_a_token_for_which_the_instruction_leaves_no_room_is_refused_at_once(
    backbone: Backbone,
) -> None:
    """A digit and the blank before it are two tokens: 299 positions become 300."""
    token = LearnedToken("<rex>", {"gemma": torch.randn(1, 32)})
    prompt = "2" + " dog" * 297 + " <rex>"
    requests = [
        ImageRequest(prompt, 1, {"<rex>": token}, instruction=each) for each in (False, True)
    ]
    assert len(generate(backbone, requests[:1], steps=1)) == 1
    with pytest.raises(TokenError, match=r"request 1: .*<rex> would be truncated"):
        generate(backbone, requests, steps=1)


def test_latents_are_scaled_and_without_spread(backbone: Backbone, weights: Path) -> None:
    vae = AutoencoderDC.from_pretrained(weights / "vae", low_cpu_mem_usage=False)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        encoded = vae.encode(pixels).latent
        expected = vae.decode(encoded).sample
    latents = backbone.encode_images(pixels)
    torch.testing.assert_close(latents.mean, 0.41407 * encoded)
    assert not bool(latents.std.any())
    torch.testing.assert_close(backbone.decode_latents(latents.mean), expected)


def test_the_image_size_is_the_transformers(backbone: Backbone) -> None:
    assert backbone.image_size == 32
    assert backbone.latent_shape(32, 64) == (4, 8, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_autoencoder_encodes_in_float32_and_never_decodes_in_float16(
    weights: Path, dtype: torch.dtype
) -> None:
    backbone = load_backbone(weights, dtype=dtype)
    assert backbone.dtype == dtype
    vae = vars(backbone)["_vae"]
    expected = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    assert {each.dtype for each in vae.decoder.parameters()} == {expected}
    assert {each.dtype for each in vae.encoder.parameters()} == {torch.float32}


# Times


def test_the_model_learns_flows(backbone: Backbone) -> None:
    assert isinstance(backbone.objective, FlowMatchingObjective)


def test_the_transformer_gets_timesteps_on_the_scale_of_its_configuration(
    backbone: Backbone, changed: Path
) -> None:
    path = changed / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"timestep_scale": 0.5}))
    conditioning = backbone.encode_prompts(*bind(["a dog"], [{}], backbone.text_encoders))
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([640.0])
    halved = load_backbone(changed).denoise(noisy, t, conditioning)
    torch.testing.assert_close(halved, backbone.denoise(noisy, t / 2, conditioning))


@pytest.mark.parametrize(
    "scheduler",
    [
        DPMSolverMultistepScheduler(
            flow_shift=2.5, use_flow_sigmas=True, prediction_type="flow_prediction"
        ),
        FlowMatchEulerDiscreteScheduler(shift=2.5),
    ],
)
def test_sampling_has_the_shift_of_the_checkpoint_under_either_name(
    changed: Path, scheduler: DPMSolverMultistepScheduler | FlowMatchEulerDiscreteScheduler
) -> None:
    """Diffusers would take 1 from the published configs, which have the other name."""
    scheduler.save_pretrained(changed / "scheduler")
    actual = load_backbone(changed).new_scheduler()
    reference = FlowMatchEulerDiscreteScheduler(shift=2.5)
    actual.set_timesteps(7)
    reference.set_timesteps(7)
    assert torch.equal(actual.timesteps, reference.timesteps)
    u = 5 / 6
    assert float(actual.timesteps[1]) == pytest.approx(1000 * 2.5 * u / (1 + 1.5 * u), abs=1)


@pytest.mark.parametrize("dropped", [{"flow_shift": None}, {"prediction_type": "epsilon"}])
def test_a_scheduler_that_is_not_for_flows_or_states_no_shift_is_refused(
    changed: Path, dropped: dict[str, str | None]
) -> None:
    path = changed / "scheduler" / "scheduler_config.json"
    stated = json.loads(path.read_text()) | dropped
    path.write_text(json.dumps(stated))
    with pytest.raises(ModelLoadError, match=r"scheduler .* SANA needs a number"):
        load_backbone(changed)


# Refusals


def transformer_with(folder: Path, **changes: object) -> None:
    config = SanaTransformer2DModel.load_config(folder / "transformer")
    model = SanaTransformer2DModel.from_config(config, **changes)
    model.save_pretrained(folder / "transformer")


def test_a_distilled_model_is_refused_by_name(changed: Path) -> None:
    transformer_with(changed, guidance_embeds=True)
    with pytest.raises(ModelLoadError, match="SANA-Sprint"):
        load_backbone(changed)


def test_the_pipeline_of_a_distilled_model_is_refused_by_name(changed: Path) -> None:
    index = json.loads((changed / "model_index.json").read_text())
    index["_class_name"] = "SanaSprintPipeline"
    (changed / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=r"for SanaSprintPipeline; supported .*SanaPipe"):
        load_backbone(changed)


def test_text_of_another_dimension_is_refused(changed: Path) -> None:
    transformer_with(changed, caption_channels=48)
    with pytest.raises(ModelLoadError, match=r"dimension 48, gemma makes 32"):
        load_backbone(changed)


@pytest.mark.parametrize("changes", [{"in_channels": 6}, {"out_channels": 8}])
def test_channels_that_do_not_fit_are_refused(changed: Path, changes: dict[str, int]) -> None:
    transformer_with(changed, **changes)
    with pytest.raises(ModelLoadError, match=r"takes \d channels and makes \d, the autoencoder"):
        load_backbone(changed)


@pytest.mark.parametrize(
    ("part", "found"),
    [("vae", "AutoencoderKL"), ("text_encoder", "Gemma2ForCausalLM")],
)
def test_a_part_of_another_class_is_refused(changed: Path, part: str, found: str) -> None:
    index = json.loads((changed / "model_index.json").read_text())
    index[part] = ["diffusers", found]
    (changed / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=f"'{part}' .* is a {found}; SanaPipeline is"):
        load_backbone(changed)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "transformer", "vae", "scheduler"])
def test_a_missing_part_is_named(changed: Path, part: str) -> None:
    shutil.rmtree(changed / part)
    with pytest.raises(ModelLoadError, match=f"no folder '{part}'"):
        load_backbone(changed)


# From images to images


@pytest.mark.parametrize("method", ["dti", "ti"])
@pytest.mark.parametrize("instructed", [False, True])
def test_a_subject_is_learned_kept_and_generated(
    backbone: Backbone,
    make_subject: Callable[..., Subject],
    tmp_path: Path,
    instructed: bool,
    method: str,
) -> None:
    config = CONFIG.changed(instruction=instructed)
    if method == "ti":
        changes = {"method": "ti", "kappa": 0.0, "magnitude": "initializer", "lr": 5e-3}
        config = config.changed(**changes)
    subjects = [make_subject(number, initializer="stuffed animal") for number in range(2)]
    learned: dict[str, Artifact] = {}
    for outcome in train(backbone, subjects, config, num_slots=2):
        assert outcome.artifact is not None, outcome.error
        assert len(outcome.metrics) == CONFIG.steps
        learned[outcome.subject.id] = outcome.artifact
    first, second = learned.values()
    rows = first.token.embeddings["gemma"]
    assert rows.shape == (2, 32)
    assert not torch.equal(rows, second.token.embeddings["gemma"])

    first.save(tmp_path / "rex.safetensors")
    artifact = Artifact.load(tmp_path / "rex.safetensors")
    assert torch.equal(artifact.token.embeddings["gemma"], rows)
    hidden = [
        backbone.encode_prompts(
            *bind(["a <rex>"], [{"<rex>": each.token}], backbone.text_encoders, [True])
        ).hidden
        for each in (first, artifact)
    ]
    assert torch.equal(*hidden)
    requests = [
        ImageRequest("a photo of <rex>", 1, {"<rex>": each.token})
        for each in (first, artifact, second)
    ]
    images = [np.asarray(image) for image in generate(backbone, requests, steps=3)]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
