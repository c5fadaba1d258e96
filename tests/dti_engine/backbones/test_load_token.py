"""`load_token` in pipelines of diffusers: images equal ours, and those of diffusers' own loader."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dti_engine import load_token
from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import export
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.config import Pooling
from dti_engine.errors import ArtifactError, ArtifactMismatchError, ConfigurationError, TokenError
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.text.tokens import LearnedToken

PROMPT = "a {} on the beach, red"
GUIDE = Path(__file__).parents[3] / "docs/how-to/diffusers.md"

Loaded: TypeAlias = tuple[Backbone, Callable[[], DiffusionPipeline]]


@pytest.fixture(scope="module")
def families(
    tiny_checkpoint: Path,
    make_sdxl_checkpoint: Callable[..., Path],
    make_sana_checkpoint: Callable[..., Path],
) -> dict[str, Loaded]:
    """Family -> its backbone, and what opens a fresh pipeline with the same sampler."""

    def sd(folder: Path, kind: type[DiffusionPipeline]) -> DiffusionPipeline:
        pipeline = kind.from_pretrained(folder, low_cpu_mem_usage=False)
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        return pipeline

    def sana(folder: Path) -> DiffusionPipeline:
        pipeline = SanaPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
        pipeline.text_encoder.set_attn_implementation("eager")
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        return pipeline

    folders = {
        "sd": (tiny_checkpoint, lambda path: sd(path, StableDiffusionPipeline)),
        "sdxl": (make_sdxl_checkpoint(), lambda path: sd(path, StableDiffusionXLPipeline)),
        "sana": (make_sana_checkpoint(), sana),
    }
    return {
        name: (load_backbone(folder), lambda folder=folder, opened=opened: opened(folder))
        for name, (folder, opened) in folders.items()
    }


def learned(
    backbone: Backbone, num_vectors: int = 1, pooling: Pooling = "eos", name: str = "<rex>"
) -> Artifact:
    rows = {
        key: 0.5 * torch.randn(num_vectors, encoder.dim)
        for key, encoder in backbone.text_encoders.items()
    }
    stated = pooling if backbone.pools else None
    origin = ImportedOrigin(format_name="diffusers", pooling=stated, files={})
    token = LearnedToken(name, rows, pooling)
    return Artifact.of(token, model=backbone.name, fingerprint=backbone.fingerprint, origin=origin)


def saved(artifact: Artifact, folder: Path) -> Path:
    path = folder / "rex.safetensors"
    artifact.save(path)
    return path


def image_of(pipeline: DiffusionPipeline, prompt: str, backbone: Backbone) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    size = backbone.image_size
    shape = backbone.latent_shape(size, size)
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(7))
    options: dict[str, Any] = {}
    if isinstance(pipeline, SanaPipeline):
        options = {"use_resolution_binning": False}
    (image,) = pipeline(
        prompt,
        height=size,
        width=size,
        latents=noise,
        guidance_scale=4.0,
        num_inference_steps=3,
        **options,
    ).images
    return np.asarray(image).astype(int)


def table_of(encoder: Any) -> Tensor:
    return encoder.get_input_embeddings().weight


# Images


@pytest.mark.parametrize("num_vectors", [1, 2])
@pytest.mark.parametrize("family", ["sd", "sdxl", "sana"])
def test_an_image_is_that_of_our_own_generation(
    families: dict[str, Loaded], tmp_path: Path, family: str, num_vectors: int
) -> None:
    backbone, opened = families[family]
    artifact, pipeline = learned(backbone, num_vectors), opened()
    name = load_token(pipeline, saved(artifact, tmp_path))
    assert name == ("<rex> <rex>_1" if (family, num_vectors) == ("sana", 2) else "<rex>")
    found = image_of(pipeline, PROMPT.format(name), backbone)
    request = ImageRequest(PROMPT.format("<rex>"), 7, {"<rex>": artifact.token}, guidance=4.0)
    (expected,) = generate(backbone, [request], steps=3)
    assert np.abs(found - np.asarray(expected)).max() <= 1
    word = image_of(pipeline, PROMPT.format("dog"), backbone)
    assert np.abs(found - word).max() > 1


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_our_token_and_that_of_diffusers_script_give_the_same_image(
    families: dict[str, Loaded], tmp_path: Path, family: str
) -> None:
    """Each file is loaded by diffusers' own loader and by ours: four images, all equal."""
    backbone, opened = families[family]
    artifact = learned(backbone, pooling="legacy")
    ours = export(artifact, tmp_path / "ours.safetensors", "diffusers").files
    theirs = [tmp_path / name for name in ("learned_embeds.safetensors", "learned_embeds_2.bin")]
    theirs = theirs[: len(ours)]
    for file, rows in zip(theirs, artifact.token.embeddings.values(), strict=True):
        # textual_inversion.py, save_progress: one row for each vector, under the placeholder.
        if file.suffix == ".bin":
            torch.save({"<rex>": rows}, file)
        else:
            save_file({"<rex>": rows}, file, metadata={"format": "pt"})
    images = []
    for files in (ours, theirs):
        pipeline = opened()
        assert load_token(pipeline, *files) == "<rex>"
        images.append(image_of(pipeline, PROMPT.format("<rex>"), backbone))
        pipeline = opened()
        for number, file in zip(("", "_2"), files, strict=False):
            pipeline.load_textual_inversion(
                str(file),
                tokenizer=getattr(pipeline, f"tokenizer{number}"),
                text_encoder=getattr(pipeline, f"text_encoder{number}"),
            )
        images.append(image_of(pipeline, PROMPT.format("<rex>"), backbone))
    assert all(np.array_equal(image, images[0]) for image in images)


def test_a_file_of_one_encoder_is_loaded_into_sana_in_lower_case(
    families: dict[str, Loaded], tmp_path: Path
) -> None:
    backbone, opened = families["sana"]
    rows = torch.randn(1, 32)
    save_file({"<Rex>": rows}, tmp_path / "learned_embeds.safetensors")
    pipeline = opened()
    assert load_token(pipeline, str(tmp_path / "learned_embeds.safetensors")) == "<rex>"
    found = image_of(pipeline, "a photo of <REX>", backbone)
    token = LearnedToken("<rex>", {"gemma": rows})
    request = ImageRequest("a photo of <rex>", 7, {"<rex>": token}, guidance=4.0)
    (expected,) = generate(backbone, [request], steps=3)
    assert np.abs(found - np.asarray(expected)).max() <= 1


# Pooling


@pytest.mark.parametrize("pooling", ["eos", "legacy"])
def test_prompts_are_pooled_as_the_token_was_trained(
    families: dict[str, Loaded], tmp_path: Path, pooling: Pooling
) -> None:
    backbone, opened = families["sdxl"]
    artifact, pipeline = learned(backbone, pooling=pooling), opened()
    load_token(pipeline, saved(artifact, tmp_path))
    texts = [f"a <rex> {place}" for place in ("on the beach", "in the snow")]
    pooled = [pipeline.encode_prompt(text, do_classifier_free_guidance=False)[2] for text in texts]
    # The token sees no later word; the end of the prompt does.
    assert torch.equal(*pooled) is (pooling == "legacy")


@pytest.mark.parametrize("order", [("eos", "legacy"), ("legacy", "eos")])
def test_tokens_of_both_poolings_in_one_pipeline_are_told(
    families: dict[str, Loaded], tmp_path: Path, order: tuple[Pooling, Pooling]
) -> None:
    backbone, opened = families["sdxl"]
    pipeline = opened()
    load_token(pipeline, saved(learned(backbone, pooling=order[0]), tmp_path))
    other = saved(learned(backbone, pooling=order[1], name="<ana>"), tmp_path)
    with pytest.warns(UserWarning, match="with <ana> this pipeline has tokens"):
        load_token(pipeline, other)
    model = pipeline.text_encoder_2.text_model
    assert model.eos_token_id == pipeline.tokenizer_2.eos_token_id


# Loading


@pytest.mark.parametrize("family", ["sd", "sdxl", "sana"])
def test_a_token_is_loaded_once(families: dict[str, Loaded], tmp_path: Path, family: str) -> None:
    backbone, opened = families[family]
    pipeline = opened()
    before = len(pipeline.tokenizer)
    file = saved(learned(backbone, 2), tmp_path)
    names = {load_token(pipeline, file) for _ in range(3)}
    assert len(names) == 1
    assert len(pipeline.tokenizer) == before + 2


def test_rows_keep_their_magnitudes_and_words_their_rows(
    families: dict[str, Loaded], tmp_path: Path
) -> None:
    backbone, opened = families["sd"]
    artifact, pipeline = learned(backbone, 2), opened()
    before = table_of(pipeline.text_encoder).clone()
    load_token(pipeline, saved(artifact, tmp_path), placeholder="<my-dog>")
    ids = pipeline.tokenizer.convert_tokens_to_ids(["<my-dog>", "<my-dog>_1"])
    after = table_of(pipeline.text_encoder)
    assert torch.equal(after[ids], artifact.token.embeddings["text_encoder"])
    assert torch.equal(after[: len(before)], before)


@pytest.mark.parametrize(
    ("first", "second"), [((1, 0), (1, 1)), ((1, 0), (2, 0)), ((2, 0), (1, 0))]
)
def test_another_token_of_the_same_name_is_refused(
    families: dict[str, Loaded],
    tmp_path: Path,
    first: tuple[int, int],
    second: tuple[int, int],
) -> None:
    backbone, opened = families["sdxl"]
    pipeline = opened()
    torch.manual_seed(first[1])
    load_token(pipeline, saved(learned(backbone, first[0]), tmp_path))
    torch.manual_seed(second[1])
    other = saved(learned(backbone, second[0]), tmp_path)
    sizes = [len(pipeline.tokenizer), len(pipeline.tokenizer_2)]
    with pytest.raises(TokenError, match=r"'<rex>(_1)?' is in the vocabulary.*placeholder='<my-"):
        load_token(pipeline, other)
    assert [len(pipeline.tokenizer), len(pipeline.tokenizer_2)] == sizes
    assert load_token(pipeline, other, placeholder="<rex-2>") == "<rex-2>"


@pytest.mark.parametrize("family", ["sd", "sana"])
def test_a_file_whose_name_is_a_word_is_refused(
    families: dict[str, Loaded], tmp_path: Path, family: str
) -> None:
    pipeline = families[family][1]()
    save_file({"dog": torch.randn(1, 32)}, tmp_path / "dog.safetensors")
    with pytest.raises(TokenError, match="'dog' is in the vocabulary"):
        load_token(pipeline, tmp_path / "dog.safetensors")


def test_a_file_without_a_name_has_that_of_the_file(
    families: dict[str, Loaded], tmp_path: Path
) -> None:
    pipeline = families["sd"][1]()
    save_file({"emb_params": torch.randn(1, 32)}, tmp_path / "My Dog.safetensors")
    assert load_token(pipeline, tmp_path / "My Dog.safetensors") == "<my-dog>"


@pytest.mark.parametrize(("trained", "used"), [("sd", "sdxl"), ("sdxl", "sd"), ("sd", "sana")])
def test_a_token_of_another_family_is_refused(
    families: dict[str, Loaded], tmp_path: Path, trained: str, used: str
) -> None:
    pipeline = families[used][1]()
    file = saved(learned(families[trained][0]), tmp_path)
    with pytest.raises(ArtifactMismatchError, match=r"widths \{.*trained with this family"):
        load_token(pipeline, file)
    assert "<rex>" not in pipeline.tokenizer.get_vocab()


def test_encoders_of_other_kinds_are_refused(families: dict[str, Loaded], tmp_path: Path) -> None:
    backbone, opened = families["sd"]
    pipeline = opened()
    pipeline.text_encoder.config.model_type = "t5"
    with pytest.raises(ArtifactMismatchError, match=r"have \{'text_encoder \(t5\)': 32\}"):
        load_token(pipeline, saved(learned(backbone), tmp_path))


def test_weights_that_are_offloaded_are_refused(
    families: dict[str, Loaded], tmp_path: Path
) -> None:
    backbone, opened = families["sd"]
    pipeline = opened()
    pipeline.text_encoder.to("meta")
    with pytest.raises(ConfigurationError, match="load tokens before that call"):
        load_token(pipeline, saved(learned(backbone), tmp_path))


@pytest.mark.parametrize("wrong", [object(), DiffusionPipeline()])
def test_a_pipeline_without_text_is_refused(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no text encoder; give a pipeline"):
        load_token(wrong, tmp_path / "rex.safetensors")


def test_a_file_that_is_missing_or_damaged_is_named(
    families: dict[str, Loaded], tmp_path: Path
) -> None:
    backbone, opened = families["sd"]
    pipeline = opened()
    with pytest.raises(ArtifactError, match=r"cannot read .*none\.safetensors"):
        load_token(pipeline, tmp_path / "none.safetensors")
    content = bytearray(learned(backbone).to_bytes())
    content[-1] ^= 1
    (tmp_path / "rex.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"rex\.safetensors'?: damaged"):
        load_token(pipeline, tmp_path / "rex.safetensors")


def test_a_malformed_name_is_refused(families: dict[str, Loaded], tmp_path: Path) -> None:
    backbone, opened = families["sd"]
    with pytest.raises(TokenError, match="placeholder 'my dog' is malformed"):
        load_token(opened(), saved(learned(backbone), tmp_path), placeholder="my dog")


# The document


def test_the_code_of_the_guide_runs(
    families: dict[str, Loaded],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sd15").symlink_to(tiny_checkpoint)
    Path("tokens").mkdir()
    saved(learned(families["sd"][0]), Path("tokens"))
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    names: dict[str, object] = {}
    exec(code[0], names)
    assert isinstance(names["image"], Image.Image)
