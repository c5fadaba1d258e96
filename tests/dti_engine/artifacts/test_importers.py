"""Files of other programs, well-formed, damaged and hostile."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from dti_engine.artifacts.importers import read_foreign
from dti_engine.errors import ArtifactError, ArtifactFormatError


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
        ({"a": torch.ones(1, 8), "b": torch.ones(1, 8)}, "has the keys a, b"),
        ({"clip_l": torch.ones(1, 8), "lora": torch.ones(1)}, "clip_l and clip_g are supported"),
        ({"<rex>": torch.ones(1, 2, 8)}, r"must be \(n, d\) numbers.*got \(1, 2, 8\)"),
        ({"<rex>": torch.ones(0, 8)}, r"got \(0, 8\)"),
        ({"<rex>": torch.ones(1, 8, dtype=torch.int64)}, r"must be \(n, d\) numbers"),
        ({"<rex>": torch.full((1, 8), torch.nan)}, "not finite"),
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


def test_a_file_that_is_not_there_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read"):
        read_foreign(tmp_path / "a.safetensors")
