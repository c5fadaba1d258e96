"""Files of other programs, well-formed, damaged and hostile."""

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.exporters import export
from dti_engine.artifacts.importers import import_token, read_foreign
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ArtifactError, ArtifactFormatError, TokenError
from tests.dti_engine.artifacts.mutations import READERS, run


def _saved(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.fixture
def ones() -> Tensor:
    return torch.ones(2, 8)


@pytest.mark.parametrize(
    ("file", "wrap", "name"),
    [
        ("a.safetensors", lambda rows: {"<rex>": rows}, "<rex>"),
        ("a.safetensors", lambda rows: {"emb_params": rows}, None),
        ("a.safetensors", lambda rows: {"<rex>": rows.half()}, "<rex>"),
        ("a.bin", lambda rows: {"<rex>": rows}, "<rex>"),
        ("a.bin", lambda rows: rows, None),
        ("a.pt", lambda rows: {"string_to_param": {"*": rows}, "name": "rex"}, "rex"),
        (
            "a.pt",
            lambda rows: {
                "string_to_token": {"*": torch.tensor(265)},
                "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)}),
            },
            None,
        ),
    ],
    ids=["diffusers", "kohya", "half", "bin", "tensor", "a1111", "first-textual-inversion"],
)
def test_what_programs_write_is_read(
    tmp_path: Path, ones: Tensor, file: str, wrap: Callable[[Tensor], Any], name: str | None
) -> None:
    found = read_foreign(_saved(tmp_path / file, wrap(ones)))
    assert torch.equal(found.embeddings["text_encoder"], ones)
    assert found.embeddings["text_encoder"].dtype == torch.float32
    assert found.name == name


def test_a_single_vector_may_be_flat(tmp_path: Path) -> None:
    found = read_foreign(_saved(tmp_path / "a.safetensors", {"<rex>": torch.ones(8)}))
    assert found.embeddings["text_encoder"].shape == (1, 8)


def test_clip_g_alone_is_the_second_encoder(tmp_path: Path, ones: Tensor) -> None:
    found = read_foreign(_saved(tmp_path / "a.safetensors", {"clip_g": ones}))
    assert found.embeddings.keys() == {"text_encoder_2"}


def test_a_file_of_both_encoders_is_no_half_of_a_pair(tmp_path: Path, ones: Tensor) -> None:
    both = _saved(tmp_path / "a.safetensors", {"clip_l": ones, "clip_g": ones.clone()})
    single = _saved(tmp_path / "b.safetensors", {"<rex>": ones})
    with pytest.raises(ArtifactFormatError, match="Give it alone"):
        read_foreign(single, both)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has the keys none"),
        ({"a": torch.ones(1, 8), "b": torch.ones(1, 8)}, "has the keys 'a', 'b';.*Save each token"),
        ({"clip_l": torch.ones(1, 8), "lora": torch.ones(1)}, "clip_l and clip_g are supported"),
        ({"<rex>": torch.ones(1, 2, 8)}, r"must be \(n, d\) numbers.*got \(1, 2, 8\)"),
        ({"<rex>": torch.ones(0, 8)}, r"got \(0, 8\)"),
        ({"<rex>": torch.ones(1, 8, dtype=torch.int64)}, r"must be \(n, d\) numbers"),
        ({"<rex>": torch.full((1, 8), torch.nan)}, "not finite"),
        ({"<rex>": torch.full((1, 8), torch.inf)}, "not finite"),
        ({"<rex>": torch.tensor([[1.0], [0.0]])}, "vector 2 of 2 of '<rex>' is all zeros"),
        ({"<rex>": torch.full((1, 8), 3e38)}, "too long for 32-bit numbers"),
        ({"<rex>": torch.ones(76, 8)}, "76 vectors .* a prompt has room for 75"),
        ({"emp_params_out": torch.ones(1, 8)}, "output embedding"),
        ({"gemma": torch.ones(1, 8), "gemma_out": torch.ones(1, 8)}, "'gemma_out' of OneTrainer"),
        ({f"lora_{i}": torch.ones(1, 8) for i in range(20)}, "'lora_15' and 12 more;"),
    ],
)
def test_an_invalid_token_is_rejected_by_name(
    tmp_path: Path, content: dict[str, Tensor], message: str
) -> None:
    path = _saved(tmp_path / "a.safetensors", content)
    with pytest.raises(ArtifactFormatError, match=f"'{path}': .*{message}"):
        read_foreign(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a token"),
        ({"string_to_param": {}}, "holds 0 tokens"),
        ({"string_to_param": 7}, "holds 0 tokens"),
        ({"<rex>": "text"}, "got str"),
        ({("<rex>",): torch.ones(1, 8, dtype=torch.int64)}, r"tuple must be \(n, d\) numbers"),
        ({"<rex>": torch.ones(1, 1).expand(2**20, 2**20)}, "vectors of the width 1048576"),
        ({"<rex>": torch.ones(1, 8, device="meta")}, "numbers"),
        ({"<rex>": torch.ones(1, 8).to_sparse()}, r"must be \(n, d\) numbers"),
        ({f"<{i}>": torch.ones(1, 8) for i in range(9)}, "more than one token, such as a LoRA"),
        ({"string_to_param": {"a": torch.ones(1, 8), "b": torch.ones(1, 8)}}, "holds 2 tokens"),
    ],
)
def test_a_pickle_of_other_objects_is_rejected(
    tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(ArtifactFormatError, match=message):
        read_foreign(_saved(tmp_path / "a.pt", content))


class _Bomb:
    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._witness),)


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_a_pickle_that_runs_code_is_rejected_and_runs_nothing(tmp_path: Path, suffix: str) -> None:
    path, witness = tmp_path / f"a{suffix}", tmp_path / "witness"
    torch.save({"<rex>": _Bomb(witness)}, path)
    with pytest.raises(ArtifactFormatError, match="could run code"):
        read_foreign(path)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin"])
@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"PK\x03\x04 half a zip", b"\x80\x02}q\x00."])
def test_damaged_files_are_rejected(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtifactFormatError):
        read_foreign(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".txt", ""])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
def test_a_file_is_judged_by_its_content_and_not_by_its_name(
    tmp_path: Path, ones: Tensor, suffix: str, kind: str
) -> None:
    path = tmp_path / f"learned_embeds{suffix}"
    if kind == "safetensors":
        path.write_bytes(safetensors.torch.save({"<rex>": ones}))
    else:
        torch.save({"<rex>": ones}, path, _use_new_zipfile_serialization=kind == "zip")
    assert read_foreign(path).name == "<rex>"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\0" * 4096, "nothing but zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "an HTML page"),
        (b"\n<html>\n<head>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
        (b'\xef\xbb\xbf{"error": "not found"}', "a JSON text"),
        ("Zugriff verweigert: ü".encode(), "a text that begins with 'Zugriff"),
        (b"\x89PNG\r\n\x1a\n and more", "a PNG image: .*save it there as .pt"),
        (b"\x1f\x8b\x08 and more", "a gzip archive"),
        (b"GGUF and more", "a GGUF model"),
        (bytes(range(7, 200)), "neither a safetensors file nor one of torch.save: .* 07 08"),
        (safetensors.torch.save({"<rex>": torch.ones(2, 8)})[:40], "cut off: it has 40 bytes"),
        (safetensors.torch.save({"<rex>": torch.ones(2, 8)})[:-4], "damaged or cut off"),
        (b"PK\x03\x04 half a zip", "damaged or cut off"),
        (b'\x40\0\0\0\0\0\0\0{"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', "cut off"),
    ],
)
def test_what_is_no_token_is_said_with_what_to_do(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(ArtifactFormatError, match=message) as refusal:
        read_foreign(path)
    assert str(refusal.value).startswith(f"'{path}': ")
    assert "could run code" not in str(refusal.value)


def test_an_ordinary_zip_archive_is_told_from_one_of_torch(tmp_path: Path, ones: Tensor) -> None:
    path = tmp_path / "embeddings.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rex.safetensors", safetensors.torch.save({"<rex>": ones}))
    with pytest.raises(ArtifactFormatError, match=r"archive of rex\.safetensors.*unpack it"):
        read_foreign(path)


def test_an_archive_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(2**24))
    assert path.stat().st_size < 2**15
    with pytest.raises(ArtifactFormatError, match=r"torch.save did not write"):
        read_foreign(path)


@pytest.mark.parametrize("num_tuples", [25, 60])
def test_a_pickle_that_would_take_for_ever_is_not_followed(tmp_path: Path, num_tuples: int) -> None:
    # Each tuple holds the one before twice, and the last is a key, so all of them are hashed.
    doubling = b")q\0" + b"".join(
        b"h%c" % i + b"h%c" % i + b"\x86q%c" % (i + 1) for i in range(num_tuples)
    )
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}" + doubling + b"K\x01s.")
    with pytest.raises(ArtifactFormatError, match="more than one token"):
        read_foreign(tmp_path / "a.pt")


def test_old_parameter_dictionaries_are_read_whatever_torch_wrote_them(
    tmp_path: Path, ones: Tensor
) -> None:
    # torch before 1.12 wrote no `_keys`, which the class of today asks for.
    old = torch.nn.ParameterDict.__new__(torch.nn.ParameterDict)
    vars(old).update(_parameters=OrderedDict({"*": torch.nn.Parameter(ones)}), _modules={})
    content = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": old}
    found = read_foreign(_saved(tmp_path / "usada.pt", content))
    assert torch.equal(found.embeddings["text_encoder"], ones)


@pytest.mark.parametrize(
    ("key", "width", "encoder", "format_name"),
    [
        ("emb_params", 768, "text_encoder", "comfyui"),
        ("emp_params", 768, "text_encoder", "onetrainer"),
        ("gemma", 2304, "gemma", "onetrainer"),
        ("<rex>", 2304, "gemma", "diffusers"),
    ],
)
def test_key_and_width_tell_the_encoder(
    tmp_path: Path, key: str, width: int, encoder: str, format_name: str
) -> None:
    found = read_foreign(_saved(tmp_path / "a.safetensors", {key: torch.ones(2, width)}))
    assert list(found.embeddings) == [encoder]
    assert found.name == (key if key == "<rex>" else None)
    assert found.format_name == format_name


def test_kohya_says_in_its_header_that_it_pools_at_the_end(tmp_path: Path, ones: Tensor) -> None:
    content = {"clip_l": ones, "clip_g": ones.clone()}
    kind = {"modelspec.architecture": "stable-diffusion-xl-v1-base/textual-inversion"}
    safetensors.torch.save_file(content, tmp_path / "kohya.safetensors", kind)
    assert read_foreign(tmp_path / "kohya.safetensors").pooling == "eos"
    safetensors.torch.save_file(content, tmp_path / "other.safetensors")
    assert read_foreign(tmp_path / "other.safetensors").pooling == "legacy"


def test_two_files_of_different_tokens_are_no_pair(tmp_path: Path, ones: Tensor) -> None:
    one = _saved(tmp_path / "a.safetensors", {"<rex>": ones})
    two = _saved(tmp_path / "b.safetensors", {"<tom>": ones})
    with pytest.raises(ArtifactFormatError, match="has the token '<tom>' and the first file"):
        read_foreign(one, two)


def test_our_own_token_is_imported_as_itself(
    tmp_path: Path, tiny_backbone: Backbone, artifact_of: Callable[..., Artifact]
) -> None:
    path = tmp_path / "renamed.bin"
    artifact = artifact_of({"text_encoder": torch.randn(2, 32)})
    artifact.save(path)
    assert import_token([path], tiny_backbone).to_bytes() == path.read_bytes()
    renamed = import_token([path], tiny_backbone, placeholder="<max>")
    assert renamed.token.placeholder == renamed.manifest.placeholder == "<max>"
    assert renamed.manifest.origin == artifact.manifest.origin
    path.write_bytes(path.read_bytes().replace(b"<rex>", b"<max>"))
    with pytest.raises(ArtifactFormatError, match=r"renamed.bin': a token of ours, damaged"):
        import_token([path], tiny_backbone)


def test_our_export_is_imported_as_the_token_it_was(
    tmp_path: Path, tiny_backbone: Backbone, artifact_of: Callable[..., Artifact]
) -> None:
    artifact = artifact_of({"text_encoder": torch.randn(2, 32)})
    path = tmp_path / "max.safetensors"
    export(artifact, path, "diffusers")
    assert import_token([path], tiny_backbone).to_bytes() == artifact.to_bytes()


def test_an_export_whose_rows_were_changed_is_another_programs(
    tmp_path: Path, tiny_backbone: Backbone, artifact_of: Callable[..., Artifact]
) -> None:
    artifact = artifact_of({"text_encoder": torch.randn(2, 32)})
    path = tmp_path / "max.safetensors"
    metadata = {"dti_export": artifact.manifest.model_dump_json()}
    rows = 2 * artifact.token.embeddings["text_encoder"]
    safetensors.torch.save_file({"<max>": rows}, path, metadata)
    imported = import_token([path], tiny_backbone)
    assert imported.manifest.origin.kind == "imported"
    assert imported.token.placeholder == "<max>"


def test_a_name_without_letters_asks_for_a_placeholder(
    tmp_path: Path, tiny_backbone: Backbone
) -> None:
    path = _saved(tmp_path / "ポーズ.safetensors", {"*": torch.ones(1, 32)})
    with pytest.raises(TokenError, match="--placeholder"):
        import_token([path], tiny_backbone)
    assert import_token([path], tiny_backbone, placeholder="<pose>").token.placeholder == "<pose>"


@pytest.mark.parametrize("reader", READERS)
def test_no_damaged_file_lets_an_error_of_a_library_out(reader: str) -> None:
    outcome = run(reader, 150)
    assert outcome.leaks == []
    assert outcome.refused > 100


def test_a_file_that_is_not_there_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read"):
        read_foreign(tmp_path / "a.safetensors")
