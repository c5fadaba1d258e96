"""Exports are opened by diffusers' own loader, and by the reading rules of the other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import export
from dti_engine.artifacts.importers import read_foreign
from dti_engine.config import ExportFormat
from dti_engine.errors import ArtifactError, ArtifactFormatError, OutputError

ArtifactOf: TypeAlias = Callable[..., Artifact]

WORDS = ("<|startoftext|>", "<|endoftext|>", "a</w>", "dog</w>")


def rows(num_vectors: int, dim: int = 8) -> Tensor:
    return torch.randn(num_vectors, dim, generator=torch.Generator().manual_seed(0))


class TinyPipeline(DiffusionPipeline, TextualInversionLoaderMixin):
    """The part of a diffusers pipeline that loads textual inversions, with one encoder or two."""

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        tokenizer_2: CLIPTokenizer,
        text_encoder_2: CLIPTextModel,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
        )


def _encoder(dim: int) -> tuple[CLIPTokenizer, CLIPTextModel]:
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, merges=[])
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=dim,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        bos_token_id=0,
        eos_token_id=1,
    )
    return tokenizer, CLIPTextModel(config)


@pytest.fixture
def pipeline() -> TinyPipeline:
    return TinyPipeline(*_encoder(8), *_encoder(16))


def _loaded(tokenizer: CLIPTokenizer, model: CLIPTextModel, count: int) -> Tensor:
    """Return the rows that diffusers has put into the table, under its names of several vectors."""
    ids = tokenizer.convert_tokens_to_ids(["<rex>", "<rex>_1", "<rex>_2"][:count])
    assert ids == [4, 5, 6][:count]
    return model.get_input_embeddings().weight[ids]


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_loads_a_token_of_one_encoder(
    pipeline: TinyPipeline, tmp_path: Path, count: int, artifact_of: ArtifactOf
) -> None:
    learned = rows(count)
    written = export(
        artifact_of({"text_encoder": learned}), tmp_path / "rex.safetensors", "diffusers"
    )
    assert written.prompt_name == "<rex>"
    (file,) = written.files
    pipeline.load_textual_inversion(str(file))
    assert torch.equal(_loaded(pipeline.tokenizer, pipeline.text_encoder, count), learned)


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_loads_a_pair_each_file_into_its_encoder(
    pipeline: TinyPipeline, tmp_path: Path, count: int, artifact_of: ArtifactOf
) -> None:
    learned, second = rows(count), rows(count, 16)
    artifact = artifact_of({"text_encoder": learned, "text_encoder_2": second})
    written = export(artifact, tmp_path / "rex.safetensors", "diffusers")
    assert [file.name for file in written.files] == ["rex.safetensors", "rex_2.safetensors"]
    one, two = (str(file) for file in written.files)
    pipeline.load_textual_inversion(one)
    pipeline.load_textual_inversion(
        two, tokenizer=pipeline.tokenizer_2, text_encoder=pipeline.text_encoder_2
    )
    assert torch.equal(_loaded(pipeline.tokenizer, pipeline.text_encoder, count), learned)
    assert torch.equal(_loaded(pipeline.tokenizer_2, pipeline.text_encoder_2, count), second)


def test_comfyui_finds_the_only_matrix_of_one_encoder(
    tmp_path: Path, artifact_of: ArtifactOf
) -> None:
    written = export(
        artifact_of({"text_encoder": rows(2)}), tmp_path / "rex.safetensors", "comfyui"
    )
    (found,) = safetensors.torch.load_file(written.files[0]).values()  # it takes the first value
    assert torch.equal(found, rows(2))
    assert written.prompt_name == "embedding:rex"


@pytest.mark.parametrize("format_name", ["comfyui", "a1111"])
def test_a_file_for_sdxl_has_the_keys_by_which_the_programs_choose(
    tmp_path: Path, format_name: ExportFormat, artifact_of: ArtifactOf
) -> None:
    artifact = artifact_of({"text_encoder": rows(2), "text_encoder_2": rows(1, 16)})
    written = export(artifact, tmp_path / "rex.safetensors", format_name)
    found = safetensors.torch.load_file(written.files[0])
    assert torch.equal(found["clip_l"], rows(2))
    assert torch.equal(found["clip_g"], rows(1, 16))
    assert found.keys() == {"clip_l", "clip_g"}


def test_a1111_finds_what_its_own_training_writes(tmp_path: Path, artifact_of: ArtifactOf) -> None:
    artifact = artifact_of({"text_encoder": rows(2)})
    written = export(artifact, tmp_path / "rex.pt", "a1111")
    found = torch.load(written.files[0], weights_only=True)
    assert torch.equal(found["string_to_param"]["*"], rows(2))
    assert (found["name"], found["step"], found["sd_checkpoint_name"]) == ("rex", 400, "miniature")
    assert written.prompt_name == "rex"


@pytest.mark.parametrize(
    ("format_name", "file"),
    [("diffusers", "rex.safetensors"), ("comfyui", "rex.safetensors"), ("a1111", "rex.pt")],
)
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_written_for_one_encoder_is_read_back(
    tmp_path: Path, format_name: ExportFormat, file: str, count: int, artifact_of: ArtifactOf
) -> None:
    export(artifact_of({"text_encoder": rows(count)}), tmp_path / file, format_name)
    found = read_foreign(tmp_path / file)
    assert found.format_name == format_name
    assert found.embeddings.keys() == {"text_encoder"}
    assert torch.equal(found.embeddings["text_encoder"], rows(count))


@pytest.mark.parametrize("format_name", ["diffusers", "comfyui", "a1111"])
def test_what_is_written_for_sdxl_is_read_back(
    tmp_path: Path, format_name: ExportFormat, artifact_of: ArtifactOf
) -> None:
    artifact = artifact_of({"text_encoder": rows(2), "text_encoder_2": rows(1, 16)})
    written = export(artifact, tmp_path / "rex.safetensors", format_name)
    found = read_foreign(*written.files)
    assert torch.equal(found.embeddings["text_encoder"], rows(2))
    assert torch.equal(found.embeddings["text_encoder_2"], rows(1, 16))


@pytest.mark.parametrize("format_name", ["diffusers", "comfyui", "a1111"])
def test_encoders_that_a_program_does_not_know_are_rejected(
    tmp_path: Path, format_name: ExportFormat, artifact_of: ArtifactOf
) -> None:
    with pytest.raises(ArtifactError, match=f"rows for gemma; {format_name} has a format"):
        export(artifact_of({"gemma": rows(1)}), tmp_path / "rex.safetensors", format_name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format_name", "file", "suffix"),
    [("diffusers", "rex.pt", ".safetensors"), ("a1111", "rex.safetensors", ".pt")],
)
def test_a_name_that_the_program_would_not_find_is_rejected(
    tmp_path: Path, format_name: ExportFormat, file: str, suffix: str, artifact_of: ArtifactOf
) -> None:
    with pytest.raises(ArtifactError, match=f"end it in {suffix}"):
        export(artifact_of({"text_encoder": rows(1)}), tmp_path / file, format_name)


def test_an_export_that_cannot_be_written_says_so(tmp_path: Path, artifact_of: ArtifactOf) -> None:
    (tmp_path / "rex.safetensors").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        export(artifact_of({"text_encoder": rows(1)}), tmp_path / "rex.safetensors", "comfyui")


def test_an_export_is_not_mistaken_for_an_artifact(tmp_path: Path, artifact_of: ArtifactOf) -> None:
    path = tmp_path / "rex.safetensors"
    export(artifact_of({"text_encoder": rows(1)}), path, "diffusers")
    with pytest.raises(ArtifactFormatError, match="no manifest"):
        Artifact.load(path)
