"""Images from prompts and tokens: against diffusers' own pipeline, and among neighbours."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import export
from dti_engine.backbones import load_backbone
from dti_engine.backbones.checkpoint import MINIATURE
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import (
    ArtifactFormatError,
    ArtifactMismatchError,
    ConfigurationError,
    GenerationFailedError,
    OutputError,
    TokenError,
)
from dti_engine.generation import denoiser as denoising
from dti_engine.generation.pipeline import (
    ImageRequest,
    generate,
    image_settings,
)
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.images.png import read_settings, save_image
from dti_engine.optim import sphere
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude
from dti_engine.text.prompts import bind
from dti_engine.text.tokens import LearnedToken, slerp_tokens

ONE_LEVEL = 1  # of 255: what rounding may change


def token(num_vectors: int = 1) -> LearnedToken:
    return LearnedToken("<rex>", {"text_encoder": torch.randn(num_vectors, 32)})


def request(prompt: str = "a photo of a dog", seed: int = 0, **options: Any) -> ImageRequest:
    return ImageRequest(prompt, seed, **options)


def generate_images(
    backbone: Backbone, *requests: ImageRequest, **options: Any
) -> list[np.ndarray]:
    """(H, W, 3) int16 levels of each image, in 5 steps."""
    images = generate(backbone, requests, **{"steps": 5, **options})
    return [np.asarray(image).astype(np.int16) for image in images]


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one - other).max())


# Against diffusers


@pytest.fixture(scope="module")
def listening_weights(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Return the tiny model with a denoiser whose images depend on the prompt."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_checkpoint)
    for name, weight in pipeline.unet.named_parameters():
        if "attn2" in name:
            weight.data *= 4
    folder = tmp_path_factory.mktemp("weights") / "listening"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def listening(listening_weights: Path) -> Backbone:
    return load_backbone(listening_weights)


def test_images_are_decoded_a_few_at_a_time(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [request(seed=seed) for seed in range(5)]
    together = generate_images(tiny_backbone, *requests)
    sizes: list[int] = []
    decode = type(tiny_backbone).decode_latents

    def counting(self: Backbone, latents: Tensor) -> Tensor:
        sizes.append(len(latents))
        return decode(self, latents)

    monkeypatch.setattr(type(tiny_backbone), "decode_latents", counting)
    monkeypatch.setattr(denoising, "_MAX_DECODED_PX", 2 * 16 * 16)
    apart = generate_images(tiny_backbone, *requests)
    assert sizes == [2, 2, 1]
    assert all(difference(*each) <= ONE_LEVEL for each in zip(together, apart, strict=True))


def test_an_out_of_memory_error_says_what_to_do(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(tiny_backbone), "denoise", full)
    with pytest.raises(
        GenerationFailedError, match=r"with 2 images of 16 x 16 at once.*batch size"
    ):
        generate_images(tiny_backbone, request(), request())


def test_a_prompt_cache_keeps_encodings_between_calls(tiny_backbone: Backbone) -> None:
    cache = PromptCache(tiny_backbone)
    first = generate_images(tiny_backbone, request("a red dog"), prompt_cache=cache)
    known = len(cache._cache)
    again = generate_images(tiny_backbone, request("a red dog"), prompt_cache=cache)
    assert known == len(cache._cache) == 2  # the prompt, and no negative one
    assert difference(first[0], again[0]) == 0
    assert difference(first[0], generate_images(tiny_backbone, request("a red dog"))[0]) == 0


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_diffusers_reads_and_generates_an_exported_token_as_we_do(
    listening: Backbone, listening_weights: Path, tmp_path: Path, num_vectors: int
) -> None:
    rex = token(num_vectors)
    prompt, negative, seed = "a photo of <rex> on the beach", "a dirty image", 3
    save_file({"<rex>": rex.embeddings["text_encoder"]}, tmp_path / "rex.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(listening_weights)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(str(tmp_path / "rex.safetensors"))

    hidden, _ = pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
    batch, rows = bind([prompt], [{"<rex>": rex}], listening.text_encoders)
    torch.testing.assert_close(
        listening.encode_prompts(batch, rows).hidden, hidden, rtol=0, atol=1e-6
    )

    reference = pipeline(
        prompt,
        negative_prompt=negative,
        num_inference_steps=5,
        guidance_scale=4.0,
        latents=torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)),
    ).images[0]
    (actual,) = generate_images(
        listening,
        request(prompt, seed, tokens={"<rex>": rex}, negative_prompt=negative, guidance=4.0),
    )
    (without,) = generate_images(
        listening, request("a photo", seed, negative_prompt=negative, guidance=4.0)
    )
    assert difference(actual, np.asarray(reference).astype(np.int16)) <= ONE_LEVEL
    assert difference(actual, without) > 10 * ONE_LEVEL


@pytest.mark.skipif(not MINIATURE.is_dir(), reason="the miniature's weights are not there")
def test_diffusers_generates_a_subject_of_the_miniature_as_we_do(
    tmp_path: Path, artifact_of: Callable[..., Artifact]
) -> None:
    backbone, seed = load_backbone("miniature"), 3
    (encoder,) = backbone.text_encoders.values()
    dog, noise = initializer_rows(encoder, "dog"), torch.Generator().manual_seed(0)
    rows = vocabulary_magnitude(encoder) * sphere.normalize(
        sphere.normalize(dog) + 0.05 * torch.randn(dog.shape, generator=noise)
    )
    artifact = artifact_of({"text_encoder": rows})
    export(artifact, tmp_path / "rex.safetensors", "diffusers")
    pipeline = StableDiffusionPipeline.from_pretrained(MINIATURE, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(str(tmp_path / "rex.safetensors"))
    prompt = "a cartoon of a <rex> wearing a hat on a beach"
    shape = backbone.latent_shape(64, 64)
    reference = pipeline(
        prompt,
        num_inference_steps=5,
        guidance_scale=5.0,
        latents=torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)),
    ).images[0]
    (actual,) = generate_images(backbone, request(prompt, seed, tokens={"<rex>": artifact.token}))
    (word,) = generate_images(backbone, request(prompt.replace("<rex>", "dog"), seed))
    assert difference(actual, np.asarray(reference).astype(np.int16)) <= ONE_LEVEL
    assert difference(actual, word) > 10 * ONE_LEVEL


# One image


def test_an_image_is_its_request(listening: Backbone) -> None:
    (once,), (again,) = generate_images(listening, request()), generate_images(listening, request())
    assert np.array_equal(once, again)
    for other in (
        request(seed=1),
        request("a painting of a cat"),
        request(negative_prompt="a bird"),
        request(guidance=8.0),
    ):
        assert difference(once, *generate_images(listening, other)) > ONE_LEVEL


def test_an_image_has_the_models_size_or_the_requested_one(tiny_backbone: Backbone) -> None:
    assert generate_images(tiny_backbone, request())[0].shape == (16, 16, 3)
    assert generate_images(tiny_backbone, request(), height=8, width=24)[0].shape == (8, 24, 3)


def test_without_guidance_the_negative_prompt_has_no_effect(listening: Backbone) -> None:
    plain = request(guidance=1.0)
    negative = request(guidance=1.0, negative_prompt="a bird on a beach")
    (alone,) = generate_images(listening, plain)
    assert np.array_equal(alone, *generate_images(listening, negative))
    # Beside a guided neighbour both halves are computed, and the unguided image stays.
    beside, unmoved, _ = generate_images(listening, plain, negative, request(guidance=7.0))
    assert np.array_equal(beside, unmoved)
    assert difference(beside, alone) <= ONE_LEVEL


def test_guidance_against_the_prompt_itself_changes_nothing(listening: Backbone) -> None:
    (guided,) = generate_images(listening, request("a dog", negative_prompt="a dog", guidance=9.0))
    (plain,) = generate_images(listening, request("a dog", guidance=1.0))
    assert difference(guided, plain) <= ONE_LEVEL


def test_a_blend_generates_like_any_token(listening: Backbone) -> None:
    a, b = token(), token()
    start, middle = (slerp_tokens(a, b, t, placeholder="<ab>") for t in (0.0, 0.5))
    generated = [
        generate_images(listening, request("a <x>", tokens={"<x>": each}))[0]
        for each in (a, start, middle)
    ]
    assert np.array_equal(generated[0], generated[1])
    assert difference(generated[0], generated[2]) > ONE_LEVEL


# Neighbours


def mixed_requests() -> list[ImageRequest]:
    """Return requests that differ in everything; the placeholder means another token in each."""
    prompts = [
        "a photo of <rex>",
        "<rex> and <rex> in the snow",
        "a red dog",
        "a painting of <rex>",
    ]
    return [
        request(prompt, seed, tokens={"<rex>": token(1 + seed % 3)}, guidance=1.0 + 2 * seed)
        for seed, prompt in enumerate(prompts)
    ]


def test_neighbours_never_change_an_image_by_a_bit(listening: Backbone) -> None:
    one, *others = mixed_requests()
    first = generate_images(listening, one, *others)
    last = generate_images(listening, *(request("a cat", seed=90 + i) for i in range(3)), one)
    assert np.array_equal(first[0], last[-1])


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_batch_size_changes_an_image_by_rounding_only(
    listening: Backbone, batch_size: int
) -> None:
    requests = mixed_requests()
    pairs = zip(
        generate_images(listening, *requests, batch_size=4),
        generate_images(listening, *requests, batch_size=batch_size),
        strict=True,
    )
    assert max(difference(one, other) for one, other in pairs) <= ONE_LEVEL


def test_a_half_precision_model_generates_nearly_the_same(
    listening: Backbone, listening_weights: Path
) -> None:
    half = load_backbone(listening_weights, dtype=torch.bfloat16)
    requests = mixed_requests()
    pairs = zip(
        generate_images(listening, *requests), generate_images(half, *requests), strict=True
    )
    assert max(float(np.abs(one - other).mean()) for one, other in pairs) < 3 * ONE_LEVEL


# Progress


def test_images_and_steps_are_reported_as_they_are_done(tiny_backbone: Backbone) -> None:
    steps: list[tuple[int, int]] = []
    generated_images: list[tuple[int, Image.Image]] = []
    images = generate(
        tiny_backbone,
        [request(seed=seed) for seed in range(3)],
        steps=2,
        batch_size=2,
        on_step=lambda done, total: steps.append((done, total)),
        on_image=lambda index, image: generated_images.append((index, image)),
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert generated_images == list(enumerate(images))


def test_no_requests_give_no_images(tiny_backbone: Backbone) -> None:
    assert generate(tiny_backbone, []) == []


# Bad input


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (request("a <max>"), TokenError, "uses <max>"),
        (request(negative_prompt="a <max>"), TokenError, "uses <max>"),
        (request("dog " * 80 + "<rex>", tokens={"<rex>": token()}), TokenError, "truncated"),
        (request(seed=-1), ConfigurationError, "seed .* got -1"),
        (request(seed=2**32), ConfigurationError, "seed .* got 4294967296"),
        (request(guidance=0.5), ConfigurationError, "guidance .* got 0.5"),
        (request(guidance=float("nan")), ConfigurationError, "guidance .* got nan"),
        (
            request(tokens={"<rex>": LearnedToken("<rex>", {"text_encoder": torch.ones(1, 8)})}),
            ArtifactMismatchError,
            "<rex> was made for",
        ),
    ],
)
def test_a_bad_request_is_named_before_anything_is_computed(
    tiny_backbone: Backbone, bad: ImageRequest, error: type[Exception], message: str
) -> None:
    steps: list[int] = []
    with pytest.raises(error, match=f"request 2: .*{message}"):
        generate(
            tiny_backbone,
            [request(), request(), bad],
            batch_size=1,
            on_step=lambda done, total: steps.append(done),
        )
    assert steps == []


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"steps": 1001}, {"batch_size": 0}, {"height": 0}, {"width": 15}],
    ids=str,
)
def test_settings_out_of_range_are_refused(
    tiny_backbone: Backbone, options: dict[str, int]
) -> None:
    with pytest.raises(ConfigurationError, match=rf"\b{next(iter(options.values()))}\b"):
        generate(tiny_backbone, [request()], **options)


# Files


class _Overflowing:
    """The tiny backbone in a dtype too small for its autoencoder."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self._backbone.decode_latents(latents) * math.nan


def test_a_model_that_overflows_generates_no_black_image(tiny_backbone: Backbone) -> None:
    with pytest.raises(GenerationFailedError, match=r"request 0: .* but NaN"):
        generate(_Overflowing(tiny_backbone), [ImageRequest("a dog", 0)], steps=2)


def test_an_image_file_records_its_settings(tiny_backbone: Backbone) -> None:
    request = ImageRequest("a <rex>", 7, negative_prompt="a cat", guidance=3.0)
    settings = image_settings(request, tiny_backbone, steps=9, tokens={"<rex>": {"sha256": "0"}})
    assert settings["tokens"] == {"<rex>": {"sha256": "0"}}
    requested = [
        settings[name] for name in ("prompt", "seed", "negative_prompt", "guidance", "steps")
    ]
    assert requested == ["a <rex>", 7, "a cat", 3.0, 9]
    assert settings["model_fingerprint"] == tiny_backbone.fingerprint
    assert settings["dtype"] == "float32"


def test_an_image_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        save_image(Image.new("RGB", (8, 8)), tmp_path, {})


def test_a_saved_image_carries_its_settings(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8))
    settings = {"prompt": "a <rex> café", "seed": 3, "guidance": 5.0, "tokens": {"<rex>": "sha"}}
    save_image(image, tmp_path / "a.png", settings)
    assert read_settings(tmp_path / "a.png") == settings
    with Image.open(tmp_path / "a.png") as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(image))


def test_a_file_without_settings_says_so(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    for name in ("plain.png", "text.png", "missing.png"):
        with pytest.raises(ArtifactFormatError, match=f"{name} holds no settings"):
            read_settings(tmp_path / name)
