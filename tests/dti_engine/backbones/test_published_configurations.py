"""Published configurations, read by each family's own loader: no value in them is wrong unseen.

Models have no weights here, only what their classes make of a configuration, and text encoders are
stood for by what a family asks of them. What is expected is from the papers and model cards, not
from the files.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from dti_engine.backbones import sana, sdxl, stable_diffusion
from dti_engine.backbones.checkpoint import ModelFolder, open_checkpoint
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.objectives import FlowMatchingObjective, NoiseObjective, VelocityObjective
from dti_engine.backbones.registry import FAMILIES, catalogue, published

CPU = torch.device("cpu")
UNETS = ["sd15", "sd21-base", "sd21", "sdxl"]
SANAS = ["sana-1.6b", "sana-4.8b"]


@cache
def configuration(name: str, part: str) -> Any:
    """Return the full configuration of a part, with the defaults of its class."""
    return published(name).on_meta(part).config


@dataclass(frozen=True)
class Unweighted(ModelFolder):
    """A checkpoint of a published model whose parts are only their configurations."""

    def model(
        self,
        model_class: type[Any],
        part: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        **options: Any,
    ) -> Any:
        assert self.index[part][1] == model_class.__name__
        # An autoencoder's two halves, which have dtypes of their own.
        halves = {name: nn.Linear(1, 1, dtype=dtype) for name in ("encoder", "decoder")}
        config = configuration(self.name, part)
        return SimpleNamespace(
            config=config, device=device, dtype=dtype, post_quant_conv=None, **halves
        )


class Encoder:
    """The attributes of a text encoder that families read when a model is loaded."""

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.dim: int = config.hidden_size
        self.summary_dim: int | None = getattr(config, "projection_dim", None)

    def vocabulary(self) -> Tensor:
        return torch.zeros(1, self.dim)

    def words(self) -> list[str]:
        return []


@pytest.fixture(autouse=True)
def _without_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(checkpoint: ModelFolder, part: str, *_: Any, **__: Any) -> Encoder:
        return Encoder(part, configuration(checkpoint.name, part))

    monkeypatch.setattr(stable_diffusion, "load_clip", load)
    monkeypatch.setattr(sdxl, "load_clip", load)
    monkeypatch.setattr(sana, "load_gemma", load)


def loaded(name: str, dtype: torch.dtype = torch.float32) -> Backbone:
    opened = open_checkpoint(published(name).folder)
    checkpoint = Unweighted(name, opened.folder, opened.index)
    family = import_module(FAMILIES[checkpoint.pipeline])
    return family.load(checkpoint, device=CPU, dtype=dtype)


def autoencoder(backbone: Backbone) -> Any:
    return vars(backbone)["_vae"]


def test_every_published_model_is_tested_here() -> None:
    assert list(catalogue()) == [*UNETS, *SANAS]


def test_both_sizes_of_sana_differ_in_the_number_of_layers_alone() -> None:
    """The digests of the smaller model's files are checked elsewhere."""
    small, large = (published(name) for name in SANAS)
    files = [path.relative_to(small.folder) for path in sorted(small.folder.glob("**/*.json"))]
    assert len(files) == 5
    for file in files:
        one, other = (json.loads((each.folder / file).read_text()) for each in (small, large))
        if file.parent.name == "transformer":
            assert (one.pop("num_layers"), other.pop("num_layers")) == (20, 60)
        assert one == other


# Times


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("sd15", NoiseObjective),
        ("sd21-base", NoiseObjective),
        ("sd21", VelocityObjective),
        ("sdxl", NoiseObjective),
        ("sana-1.6b", FlowMatchingObjective),
        ("sana-4.8b", FlowMatchingObjective),
    ],
)
def test_each_model_has_its_published_prediction_type(name: str, objective: type[Any]) -> None:
    assert type(loaded(name).objective) is objective


@pytest.mark.parametrize("name", UNETS)
def test_noise_grows_as_in_latent_diffusion(name: str) -> None:
    """Root of beta from that of 0.00085 to that of 0.012, in 1000 even steps."""
    objective: Any = loaded(name).objective
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = (1 - betas).cumprod(dim=0).float()
    torch.testing.assert_close(objective.alphas_cumprod, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", UNETS)
def test_sampling_clips_no_latents_and_takes_the_steps_of_stable_diffusion(name: str) -> None:
    """The published samplers are of other classes: what they share with DDIM is what is read."""
    backbone = loaded(name)
    sampler: Any = backbone.new_scheduler()
    objective: Any = backbone.objective
    assert isinstance(sampler, DDIMScheduler)
    predicted = {"noise": "epsilon", "velocity": "v_prediction"}[objective.name]
    assert sampler.config["prediction_type"] == predicted
    assert not sampler.config["clip_sample"]
    assert not sampler.config["thresholding"]
    assert not sampler.config["rescale_betas_zero_snr"]
    assert torch.equal(sampler.alphas_cumprod, objective.alphas_cumprod)
    assert sampler.final_alpha_cumprod == sampler.alphas_cumprod[0] < 1  # not quite clean
    sampler.set_timesteps(4)
    assert sampler.timesteps.tolist() == [751, 501, 251, 1]


@pytest.mark.parametrize("name", SANAS)
def test_sampling_of_sana_leans_to_noise_by_a_shift_of_3(name: str) -> None:
    sampler = loaded(name).new_scheduler()
    sampler.set_timesteps(3)
    first, half, _ = sampler.timesteps.tolist()
    assert first == pytest.approx(1000)
    assert half == pytest.approx(1000 * 3 * 0.5 / (1 + 2 * 0.5), abs=2)


@pytest.mark.parametrize("name", SANAS)
def test_sana_gets_timesteps_up_to_1000_unscaled(name: str) -> None:
    backbone = loaded(name)
    assert vars(backbone)["_time_scale"] == 1.0
    assert backbone.objective.timesteps(torch.tensor([0.25])).tolist() == [250.0]


# Images


@pytest.mark.parametrize(
    ("name", "side", "latents", "scale"),
    [
        ("sd15", 512, (4, 64, 64), 0.18215),
        ("sd21-base", 512, (4, 64, 64), 0.18215),
        ("sd21", 768, (4, 96, 96), 0.18215),
        ("sdxl", 1024, (4, 128, 128), 0.13025),
        ("sana-1.6b", 1024, (32, 32, 32), 0.41407),
        ("sana-4.8b", 1024, (32, 32, 32), 0.41407),
    ],
)
def test_latents_are_of_the_size_and_scale_that_each_was_trained_on(
    name: str, side: int, latents: tuple[int, int, int], scale: float
) -> None:
    backbone = loaded(name)
    assert backbone.image_size == side
    assert backbone.latent_shape(side, side) == latents
    config = autoencoder(backbone).config
    assert config["scaling_factor"] == vars(backbone)["_scale"] == scale
    assert not config.get("shift_factor")
    assert config["in_channels"] == config.get("out_channels", 3) == 3


@pytest.mark.parametrize("name", [*UNETS, *SANAS])
def test_no_published_autoencoder_computes_in_float16_or_encodes_in_half_precision(
    name: str,
) -> None:
    """SDXL's and SANA's overflow in it; those that do not say are not trusted to."""
    for dtype, expected in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        backbone = loaded(name, dtype)
        assert backbone.dtype == dtype
        assert autoencoder(backbone).decoder.weight.dtype == expected
        assert autoencoder(backbone).encoder.weight.dtype == torch.float32


def test_sdxl_says_that_its_autoencoder_overflows() -> None:
    assert published("sdxl").configuration("vae")["force_upcast"] is True


@pytest.mark.parametrize("name", UNETS)
def test_autoencoders_compute_as_latent_diffusions_does(name: str) -> None:
    """A count of the weights does not show these settings."""
    config = configuration(name, "vae")
    assert (config["act_fn"], config["norm_num_groups"]) == ("silu", 32)
    assert config["mid_block_add_attention"]


# Prompts


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("sd15", {"text_encoder": 768}),
        ("sd21-base", {"text_encoder": 1024}),
        ("sd21", {"text_encoder": 1024}),
        ("sdxl", {"text_encoder": 768, "text_encoder_2": 1280}),
        ("sana-1.6b", {"text_encoder": 2304}),
        ("sana-4.8b", {"text_encoder": 2304}),
    ],
)
def test_denoisers_read_the_encoders_that_they_come_with(name: str, dims: dict[str, int]) -> None:
    """Else loading would refuse them."""
    backbone = loaded(name)
    assert {each.name: each.dim for each in backbone.text_encoders.values()} == dims
    assert backbone.pools == (name == "sdxl")


def test_sdxl_reads_an_empty_prompt_as_zeros() -> None:
    assert vars(loaded("sdxl"))["_empty_is_zero"] is True


@pytest.mark.parametrize(
    ("name", "part", "activation", "heads"),
    [
        ("sd15", "text_encoder", "quick_gelu", 12),  # OpenAI's CLIP ViT-L/14
        ("sd21-base", "text_encoder", "gelu", 16),  # OpenCLIP ViT-H/14
        ("sd21", "text_encoder", "gelu", 16),
        ("sdxl", "text_encoder", "quick_gelu", 12),
        ("sdxl", "text_encoder_2", "gelu", 20),  # OpenCLIP ViT-bigG/14
    ],
)
def test_clips_compute_as_those_that_they_were_converted_from(
    name: str, part: str, activation: str, heads: int
) -> None:
    """A count of the weights does not show these settings."""
    config = configuration(name, part)
    assert (config.hidden_act, config.num_attention_heads) == (activation, heads)
    assert config.layer_norm_eps == 1e-5
    assert config.eos_token_id == 2  # not the end's: transformers then pools at the highest id
    assert (config.vocab_size, config.max_position_embeddings) == (49408, 77)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("sd15", {8}),  # of any width
        ("sd21-base", {5, 10, 20}),  # of 64 each
        ("sd21", {5, 10, 20}),
        ("sdxl", {10, 20}),
    ],
)
def test_unets_attend_with_as_many_heads_as_published(name: str, heads: set[int]) -> None:
    """A count of the weights does not show the heads, nor how timesteps and layers are computed."""
    unet: Any = published(name).on_meta("unet")
    attention = [each for key, each in unet.named_modules() if key.endswith((".attn1", ".attn2"))]
    assert {each.heads for each in attention} == heads
    config = unet.config
    assert (config["act_fn"], config["norm_num_groups"], config["norm_eps"]) == ("silu", 32, 1e-5)
    assert (config["flip_sin_to_cos"], config["freq_shift"]) == (True, 0)
    for option in ("center_input_sample", "only_cross_attention", "resnet_skip_time_act"):
        assert not config[option]
    assert config["resnet_out_scale_factor"] == 1
    assert bool(config["upcast_attention"]) == (name == "sd21")
    assert (config["mid_block_scale_factor"], config["downsample_padding"]) == (1, 1)
