"""Exports are opened by diffusers' own loader, and by the reading rules of the other programs."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import convert, export
from dti_engine.artifacts.importers import exported_artifact, read_foreign
from dti_engine.artifacts.programs import PROGRAMS, takes
from dti_engine.config import ExportFormat, Pooling
from dti_engine.errors import ArtifactError, ArtifactFormatError, OutputError
from tests.dti_engine.artifacts.loaders import (
    load_a1111,
    load_comfyui,
    load_invokeai,
    load_kohya,
    load_onetrainer,
    names_in_comfyui,
    names_in_invokeai,
)

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


SD1, SD2 = {"text_encoder": 768}, {"text_encoder": 1024}
SDXL = {"text_encoder": 768, "text_encoder_2": 1280}
SANA = {"gemma": 2304}
FAMILIES = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL, "sana": SANA}


def token_of(artifact_of: ArtifactOf, family: dict[str, int], count: int = 2) -> Artifact:
    return artifact_of({name: rows(count, width) for name, width in family.items()})


def equal(found: Iterable[Tensor], artifact: Artifact) -> bool:
    expected = artifact.token.embeddings.values()
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_comfyui_loads_the_rows_of_each_encoder(
    tmp_path: Path, family: str, count: int, artifact_of: ArtifactOf
) -> None:
    artifact = token_of(artifact_of, FAMILIES[family], count)
    written = export(artifact, tmp_path / "rex.safetensors", "comfyui")
    keys = ["clip_l", "clip_g"][: len(artifact.token.embeddings)]
    assert equal([load_comfyui(written.files[0], key) for key in keys], artifact)
    assert written.prompt_name == "embedding:rex"
    for prompt in ("a {} dog", "{}", "a {}, on a beach", "a (photo of {}:1.3) dog", "a {} <lora>"):
        text = prompt.format(written.prompt_name)
        assert names_in_comfyui(text, tmp_path) == ["rex"], text


@pytest.mark.parametrize("file", ["rex.pt", "rex.safetensors"])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a1111_loads_one_encoder_from_either_kind_of_file(
    tmp_path: Path, file: str, family: str, artifact_of: ArtifactOf
) -> None:
    artifact = token_of(artifact_of, FAMILIES[family])
    written = export(artifact, tmp_path / file, "a1111")
    found = load_a1111(written.files[0])
    assert isinstance(found, Tensor)
    assert equal([found], artifact)
    assert written.prompt_name == "rex"


def test_a1111_loads_both_encoders_of_sdxl(tmp_path: Path, artifact_of: ArtifactOf) -> None:
    artifact = token_of(artifact_of, SDXL)
    found = load_a1111(export(artifact, tmp_path / "rex.safetensors", "a1111").files[0])
    assert isinstance(found, dict)
    assert equal([found["clip_l"], found["clip_g"]], artifact)


def test_a1111_finds_what_its_own_training_writes(tmp_path: Path, artifact_of: ArtifactOf) -> None:
    written = export(token_of(artifact_of, SD1), tmp_path / "rex.pt", "a1111")
    found = torch.load(written.files[0], weights_only=True)
    assert found["string_to_token"] == {"*": 265}
    assert (found["name"], found["step"], found["sd_checkpoint_name"]) == ("rex", 400, "miniature")


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_kohya_loads_the_rows_of_each_encoder(
    tmp_path: Path, family: str, artifact_of: ArtifactOf
) -> None:
    artifact = token_of(artifact_of, FAMILIES[family])
    written = export(artifact, tmp_path / "rex-dti.safetensors", "kohya")
    assert equal(load_kohya(written.files[0], is_sdxl=family == "sdxl"), artifact)
    assert written.prompt_name == "rex-dti"


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("sd1", ["emp_params"]),
        ("sd2", ["emp_params"]),
        ("sdxl", ["clip_l", "clip_g"]),
        ("sana", ["gemma"]),
    ],
)
def test_onetrainer_loads_the_rows_of_each_encoder(
    tmp_path: Path, family: str, keys: list[str], artifact_of: ArtifactOf
) -> None:
    artifact = token_of(artifact_of, FAMILIES[family])
    written = export(artifact, tmp_path / "my rex.safetensors", "onetrainer")
    assert equal([load_onetrainer(written.files[0], key) for key in keys], artifact)
    assert written.prompt_name == "<rex>"
    assert "placeholder of the embedding" in str(written.note)


@pytest.mark.parametrize(("family", "base"), [("sd1", "sd-1"), ("sd2", "sd-2"), ("sdxl", "sdxl")])
@pytest.mark.parametrize("count", [1, 3])
def test_invokeai_recognises_the_model_and_loads_the_rows(
    tmp_path: Path, family: str, base: str, count: int, artifact_of: ArtifactOf
) -> None:
    artifact = token_of(artifact_of, FAMILIES[family], count)
    written = export(artifact, tmp_path / "rex.v2.safetensors", "invokeai")
    found_base, found = load_invokeai(written.files[0])
    assert found_base == base
    assert equal(found, artifact)
    assert names_in_invokeai(f"a photo of {written.prompt_name} on a beach") == ["rex.v2"]


@pytest.mark.parametrize("format_name", ["diffusers", "comfyui", "a1111", "kohya", "invokeai"])
@pytest.mark.parametrize("encoder", ["gemma", "text_encoder"])
def test_a_token_of_sana_goes_to_onetrainer_alone(
    tmp_path: Path, format_name: ExportFormat, encoder: str, artifact_of: ArtifactOf
) -> None:
    # Gemma's width tells it, whatever the encoder was called when the token was made.
    with pytest.raises(ArtifactError, match=r"SANA \(2304\).* --format onetrainer takes it"):
        export(artifact_of({encoder: rows(1, 2304)}), tmp_path / "rex.safetensors", format_name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_name", ["comfyui", "a1111", "kohya", "onetrainer", "invokeai"])
@pytest.mark.parametrize("widths", [(128,), (128, 128), (768, 1024)])
def test_a_width_that_no_model_of_the_program_has_is_refused(
    tmp_path: Path, format_name: ExportFormat, widths: tuple[int, ...], artifact_of: ArtifactOf
) -> None:
    artifact = artifact_of(dict(zip(SDXL, (rows(1, width) for width in widths), strict=False)))
    with pytest.raises(ArtifactError, match=r"widths .*--format diffusers takes it.*SDXL \(768"):
        export(artifact, tmp_path / "rex.safetensors", format_name)


@pytest.mark.parametrize("encoders", [("text_encoder_2",), ("t5",), ("text_encoder", "t5")])
def test_encoders_that_no_program_takes_are_refused(
    tmp_path: Path, encoders: tuple[str, ...], artifact_of: ArtifactOf
) -> None:
    artifact = artifact_of({name: rows(1, 768) for name in encoders})
    with pytest.raises(ArtifactError, match=r"keep our own file\. diffusers, ComfyUI"):
        export(artifact, tmp_path / "rex.safetensors", "diffusers")


@pytest.mark.parametrize("format_name", ["a1111", "kohya"])
def test_unequal_numbers_of_vectors_are_refused_where_one_number_counts(
    tmp_path: Path, format_name: ExportFormat, artifact_of: ArtifactOf
) -> None:
    artifact = artifact_of({"text_encoder": rows(2, 768), "text_encoder_2": rows(1, 1280)})
    with pytest.raises(ArtifactError, match="same number for both encoders"):
        export(artifact, tmp_path / "rex.safetensors", format_name)
    export(artifact, tmp_path / "rex.safetensors", "comfyui")


@pytest.mark.parametrize(
    ("format_name", "file", "suffix"),
    [
        ("diffusers", "rex.pt", ".safetensors"),
        ("comfyui", "rex", ".safetensors"),
        ("a1111", "rex.bin", r"\.pt or .safetensors"),
    ],
)
def test_a_file_that_the_program_would_not_find_is_refused(
    tmp_path: Path, format_name: ExportFormat, file: str, suffix: str, artifact_of: ArtifactOf
) -> None:
    with pytest.raises(ArtifactError, match=f"end it in {suffix}"):
        export(token_of(artifact_of, SD1), tmp_path / file, format_name)


@pytest.mark.parametrize("format_name", ["comfyui", "kohya", "invokeai", "a1111"])
@pytest.mark.parametrize(
    "stem",
    ["rex (v2)", "rex:1", "rex, dog", "<rex>", "[rex]", "rex\\", "{a|b}", "-rex", "rex:", "re:x"],
)
def test_a_name_that_a_prompt_cannot_say_is_refused_with_one_that_it_can(
    tmp_path: Path, format_name: ExportFormat, stem: str, artifact_of: ArtifactOf
) -> None:
    path = tmp_path / f"{stem}.safetensors"
    with pytest.raises(ArtifactError, match="no prompt can say") as refusal:
        export(token_of(artifact_of, SD1), path, format_name)
    better = Path(str(refusal.value).rpartition("--output ")[2])
    assert better.parent == tmp_path
    export(token_of(artifact_of, SD1), better, format_name)
    # diffusers and OneTrainer call the token by its placeholder.
    assert export(token_of(artifact_of, SD1), path, "diffusers").prompt_name == "<rex>"


@pytest.mark.parametrize("format_name", ["comfyui", "kohya", "invokeai"])
def test_a_space_ends_a_name_except_in_a1111(
    tmp_path: Path, format_name: ExportFormat, artifact_of: ArtifactOf
) -> None:
    path = tmp_path / "my rex.safetensors"
    with pytest.raises(ArtifactError, match=r"--output .*/my-rex\.safetensors"):
        export(token_of(artifact_of, SD1), path, format_name)
    assert export(token_of(artifact_of, SD1), path, "a1111").prompt_name == "my rex"


@pytest.mark.parametrize("format_name", ["a1111", "kohya"])
def test_a_name_that_is_a_word_is_noted(
    tmp_path: Path, format_name: ExportFormat, artifact_of: ArtifactOf
) -> None:
    artifact = token_of(artifact_of, SD1)
    assert "'dog'" in str(export(artifact, tmp_path / "dog.safetensors", format_name).note)
    assert export(artifact, tmp_path / "dog-dti.safetensors", format_name).note is None


@pytest.mark.parametrize(
    ("format_name", "pooling", "cure"),
    [
        ("diffusers", "eos", "eos_token_id"),
        ("invokeai", "eos", "--set pooling=legacy"),
        ("onetrainer", "eos", "--set pooling=legacy"),
        ("comfyui", "legacy", "--set pooling=eos"),
        ("a1111", "legacy", "--set pooling=eos"),
        ("kohya", "legacy", "--set pooling=eos"),
    ],
)
def test_another_pooling_is_noted_for_models_that_pool(
    tmp_path: Path,
    format_name: ExportFormat,
    pooling: Pooling,
    cure: str,
    artifact_of: ArtifactOf,
) -> None:
    def note(family: dict[str, int], pooling: Pooling | None) -> str:
        rows_of = {name: rows(1, width) for name, width in family.items()}
        artifact = artifact_of(rows_of, **({"pooling": pooling} if pooling else {}))
        return str(convert(artifact, tmp_path / "rex-1.safetensors", format_name).note)

    same: Pooling = "eos" if pooling == "legacy" else "legacy"
    assert cure in note(SDXL, pooling)
    assert "pool" not in note(SDXL, same)
    assert "pool" not in note(SD1, None)


@pytest.mark.parametrize("format_name", PROGRAMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read_back(
    tmp_path: Path, format_name: ExportFormat, family: str, artifact_of: ArtifactOf
) -> None:
    artifact = token_of(artifact_of, FAMILIES[family], 3)
    if not takes(format_name, FAMILIES[family]):
        return
    written = export(artifact, tmp_path / "max.safetensors", format_name)
    found = read_foreign(*written.files)
    assert list(found.embeddings) == list(FAMILIES[family])
    assert equal(found.embeddings.values(), artifact)
    again = exported_artifact(found)
    assert again is not None
    assert again.to_bytes() == artifact.to_bytes()


def test_the_document_lists_every_program_with_its_models() -> None:
    document = Path(__file__).parents[3] / "docs/how-to/other-programs.md"
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\|([^|]*)\|[^|]*\|([^|]*)\|$", document.read_text(), re.M
    )
    short = {"Stable Diffusion 1": "SD 1", "Stable Diffusion 2": "SD 2"}
    assert [name for name, _, _ in rows] == list(PROGRAMS)
    for (_, models, place), program in zip(rows, PROGRAMS.values(), strict=True):
        names = [short.get(family.name, family.name) for family in program.families]
        assert [each.strip() for each in models.split(",")][: len(names)] == names
        assert place.strip() == ("at the end" if program.pooling == "eos" else "at the token")


def test_an_export_that_cannot_be_written_says_so(tmp_path: Path, artifact_of: ArtifactOf) -> None:
    (tmp_path / "rex.safetensors").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        export(token_of(artifact_of, SD1), tmp_path / "rex.safetensors", "comfyui")


def test_an_export_is_not_mistaken_for_an_artifact(tmp_path: Path, artifact_of: ArtifactOf) -> None:
    path = tmp_path / "rex.safetensors"
    export(artifact_of({"text_encoder": rows(1)}), path, "diffusers")
    with pytest.raises(ArtifactFormatError, match="no manifest"):
        Artifact.load(path)
