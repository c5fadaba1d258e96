import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.file_kinds import file_kind
from dti_engine.artifacts.sealed import write_checked
from dti_engine.errors import ArtifactError, ArtifactFormatError, ArtifactMismatchError, OutputError
from dti_engine.recipes import miniature
from dti_engine.text.tokens import LearnedToken

FINGERPRINT = "a" * 64

ArtifactOf: TypeAlias = Callable[..., Artifact]


def rows(num_vectors: int, dim: int = 8) -> Tensor:
    return torch.randn(num_vectors, dim, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def artifact(artifact_of: ArtifactOf) -> Artifact:
    return artifact_of({"text_encoder": rows(2)})


def forged(
    artifact: Artifact,
    tensors: dict[str, Tensor] | None = None,
    change: Callable[[dict[str, Any]], object] = lambda manifest: None,
) -> bytes:
    """Return the file with other tensors or an edited manifest; its digest is right."""
    manifest = json.loads(artifact.manifest.model_dump_json())
    change(manifest)
    embeddings = dict(artifact.token.embeddings) if tensors is None else tensors
    return write_checked("dti", json.dumps(manifest), embeddings)


# Saving and loading


def test_a_saved_checkpoint_is_loaded_unchanged(tmp_path: Path, artifact_of: ArtifactOf) -> None:
    saved = artifact_of({"text_encoder": rows(2, 8), "text_encoder_2": rows(1, 12)})
    saved.save(tmp_path / "rex.safetensors")
    loaded = Artifact.load(tmp_path / "rex.safetensors")
    assert loaded.manifest == saved.manifest
    assert loaded.token.placeholder == "<rex>"
    assert loaded.token.embeddings.keys() == saved.token.embeddings.keys()
    for name, expected in saved.token.embeddings.items():
        assert torch.equal(loaded.token.embeddings[name], expected)


def test_an_artifact_always_gives_the_same_bytes(artifact: Artifact) -> None:
    data = artifact.to_bytes()
    assert artifact.to_bytes() == data
    assert Artifact.from_bytes(data).to_bytes() == data


def test_rows_that_are_views_of_one_trained_table_are_saved(artifact_of: ArtifactOf) -> None:
    table = rows(6).requires_grad_()
    saved = artifact_of({"a": table[1:3], "b": table[2:5]})
    loaded = Artifact.from_bytes(saved.to_bytes())
    assert torch.equal(loaded.token.embeddings["b"], table[2:5])
    assert not loaded.token.embeddings["b"].requires_grad


def test_the_manifest_has_derived_values(artifact_of: ArtifactOf) -> None:
    manifest = artifact_of({"a": rows(2), "b": rows(3)}).manifest
    assert manifest.num_vectors == {"a": 2, "b": 3}
    assert manifest.training is not None
    assert manifest.training.config == miniature()
    assert manifest.created.tzinfo is UTC


def test_saving_replaces_a_file_and_leaves_nothing_else(
    artifact: Artifact, tmp_path: Path, artifact_of: ArtifactOf
) -> None:
    path = tmp_path / "new" / "folder" / "rex.safetensors"
    artifact_of({"text_encoder": rows(1)}).save(path)
    artifact.save(path)
    assert path.read_bytes() == artifact.to_bytes()
    assert list(path.parent.iterdir()) == [path]


def test_saving_that_fails_leaves_nothing_behind(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "rex").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        artifact.save(tmp_path / "rex")
    assert list(tmp_path.iterdir()) == [tmp_path / "rex"]


def test_saving_below_a_file_is_rejected(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        artifact.save(tmp_path / "file" / "rex.safetensors")


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match=f"cannot read '{path}'"):
            Artifact.load(path)


def test_a_vector_of_zeros_is_no_token(artifact_of: ArtifactOf) -> None:
    zero = torch.cat([rows(1), torch.zeros(1, 8)])
    with pytest.raises(ArtifactFormatError, match="vector 2 of 2 for 'text_encoder' is all zeros"):
        artifact_of({"text_encoder": zero})


# Files that are not ours


def test_an_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rex.safetensors"
    path.write_text("hello, I am a token")
    with pytest.raises(ArtifactFormatError, match=f"^'{path}': not a safetensors file"):
        Artifact.load(path)


def test_a_pickle_is_rejected_and_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    for data in (pickle.dumps(Bomb()), pickle.dumps({"<rex>": [1.0]})):
        (tmp_path / "learned_embeds.bin").write_bytes(data)
        with pytest.raises(ArtifactFormatError, match="not a safetensors file"):
            Artifact.load(tmp_path / "learned_embeds.bin")
    assert not (tmp_path / "exploded").exists()


def test_a_file_cut_short_is_rejected_wherever_it_is_cut(artifact: Artifact) -> None:
    data = artifact.to_bytes()
    for length in range(len(data)):
        with pytest.raises(ArtifactFormatError, match=r"cut off|damaged|empty|begins with|zero"):
            Artifact.from_bytes(data[:length])


def test_a_damaged_file_is_rejected_wherever_a_bit_has_turned(artifact: Artifact) -> None:
    data = artifact.to_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        try:
            loaded = Artifact.from_bytes(bytes(damaged))
        except ArtifactFormatError:
            continue
        assert loaded.to_bytes() == data, place  # such as in the padding of the header


def test_what_keeps_every_length_but_not_the_checksum_is_rejected(artifact: Artifact) -> None:
    data = artifact.to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    turned = {name: -each for name, each in artifact.token.embeddings.items()}
    with pytest.raises(
        ArtifactFormatError, match="damaged: its content does not match its checksum"
    ):
        Artifact.from_bytes(safetensors.torch.save(turned, header["__metadata__"]))


def test_a_huge_file_is_rejected_before_it_is_read_in(tmp_path: Path) -> None:
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(2**33)  # sparse: takes no room on the disk
    with pytest.raises(ArtifactFormatError, match="larger than 67108864 bytes"):
        Artifact.load(tmp_path / "giant")


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_file_without_a_manifest_is_rejected(metadata: dict[str, str] | None) -> None:
    data = safetensors.torch.save({"text_encoder": rows(2)}, metadata)
    with pytest.raises(ArtifactFormatError, match="no manifest"):
        Artifact.from_bytes(data)


def test_a_newer_schema_is_rejected_whatever_else_it_holds(artifact: Artifact) -> None:
    data = forged(artifact, change=lambda manifest: manifest.update(schema_version=2, novelty=[1]))
    with pytest.raises(ArtifactFormatError, match=r"schema is 2, .* up to 1; update the engine"):
        Artifact.from_bytes(data)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "7", "[" * 100_000, '{"schema_version":"1"}']
)
def test_an_invalid_manifest_is_rejected(text: str) -> None:
    with pytest.raises(ArtifactFormatError, match="bad manifest"):
        Artifact.from_bytes(write_checked("dti", text, {"text_encoder": rows(2)}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 0}, "schema_version should be 1, got 0"),
        ({"novelty": 1}, "novelty is unknown; known are schema_version, "),
        (
            {"origin": {"kind": "found"}},
            "origin Input tag 'found' .* 'trained', 'blended', 'imported'",
        ),
        ({"origin": {"kind": "blended"}}, "origin.blended.parents is required"),
        ({"created": "2026-01-01T00:00:00"}, "created should have timezone info"),
        ({"placeholder": "rex"}, "placeholder 'rex' is malformed"),
        ({"placeholder": "<\x00>"}, "is malformed"),
    ],
)
def test_a_bad_entry_of_the_manifest_is_named(
    artifact: Artifact, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(ArtifactFormatError, match=reason):
        Artifact.from_bytes(forged(artifact, change=lambda manifest: manifest.update(change)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": -1}, "seed should be greater than or equal to 0, got -1"),
        ({"config": {"method": "dti"}}, "config.steps is required"),
        ({"images": {"a.png": "0"}}, "images .* got '0'"),
        ({"metrics": {"loss": None}}, "metrics.loss should be a valid number, got None"),
    ],
)
def test_a_bad_entry_of_the_training_is_named(
    artifact: Artifact, change: dict[str, object], reason: str
) -> None:
    data = forged(artifact, change=lambda manifest: manifest["origin"].update(change))
    with pytest.raises(ArtifactFormatError, match=f"origin.trained.{reason}"):
        Artifact.from_bytes(data)


def test_a_missing_entry_of_the_manifest_is_named(artifact: Artifact) -> None:
    with pytest.raises(ArtifactFormatError, match="bad manifest: model is required"):
        Artifact.from_bytes(forged(artifact, change=lambda manifest: manifest.pop("model")))


@pytest.mark.parametrize(
    "tensors",
    [{}, {"text_encoder_2": rows(2)}, {"text_encoder": rows(2), "another": rows(2)}],
)
def test_tensors_for_other_encoders_than_noted_are_rejected(
    artifact: Artifact, tensors: dict[str, Tensor]
) -> None:
    with pytest.raises(ArtifactFormatError, match=r"says <rex> for \['text_encoder'\]"):
        Artifact.from_bytes(forged(artifact, tensors))


@pytest.mark.parametrize("found", [rows(1), rows(3), 1.001 * rows(2), rows(2).flip(0)])
def test_vectors_of_other_number_or_length_than_noted_are_rejected(
    artifact: Artifact, found: Tensor
) -> None:
    with pytest.raises(
        ArtifactFormatError, match="the vectors for 'text_encoder' have the lengths"
    ):
        Artifact.from_bytes(forged(artifact, {"text_encoder": found}))


@pytest.mark.parametrize(
    "found",
    [
        rows(2).half(),
        rows(2).double(),
        rows(2).to(torch.int32),
        rows(2)[0],
        rows(2)[None],
        rows(2)[:0],
        rows(2)[:, :0],
        rows(2).index_fill(0, torch.tensor(1), float("nan")),
        rows(2).index_fill(1, torch.tensor(3), float("inf")),
    ],
)
def test_tensors_that_are_no_finite_rows_of_float32_are_rejected(
    artifact: Artifact, found: Tensor
) -> None:
    with pytest.raises(ArtifactFormatError, match=r"embeddings of <rex> .* must be finite"):
        Artifact.from_bytes(forged(artifact, {"text_encoder": found}))


def test_an_artifact_cannot_be_made_of_parts_that_contradict(artifact: Artifact) -> None:
    other = LearnedToken("<max>", artifact.token.embeddings)
    with pytest.raises(ArtifactFormatError, match=r"the token is <max> .* says <rex>"):
        Artifact(artifact.manifest, other)


def test_an_artifact_keeps_how_prompts_were_read(artifact_of: ArtifactOf) -> None:
    artifact = artifact_of({"text_encoder": rows(2)}, pooling="legacy")
    assert Artifact.from_bytes(artifact.to_bytes()).token.pooling == "legacy"
    other = replace(artifact.token, pooling="eos")
    with pytest.raises(ArtifactFormatError, match=r"pooling 'eos', the manifest says 'legacy'"):
        Artifact(artifact.manifest, other)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_metric_that_json_cannot_hold_is_rejected_before_it_is_written(
    loss: float, artifact_of: ArtifactOf
) -> None:
    with pytest.raises(ValidationError, match="finite"):
        artifact_of({"text_encoder": rows(2)}, metrics={"loss": loss})


# Does it fit?


def test_a_token_fits_the_weights_that_it_was_made_with(artifact: Artifact) -> None:
    assert artifact.check_compatibility({"text_encoder": 8}, FINGERPRINT, same_weights=True) is None


@pytest.mark.parametrize(
    "dims", [{}, {"text_encoder": 768}, {"gemma": 8}, {"text_encoder": 8, "text_encoder_2": 8}]
)
def test_other_encoders_or_dimensions_are_rejected(
    artifact: Artifact, dims: dict[str, int]
) -> None:
    with pytest.raises(
        ArtifactMismatchError, match=r"<rex> .* 'miniature', .* \{'text_encoder': 8"
    ):
        artifact.check_compatibility(dims, FINGERPRINT)


def test_a_header_whose_length_looks_like_a_pickle_is_none() -> None:
    assert file_kind((0x0280).to_bytes(8, "little") + b"{") == "safetensors"
    assert file_kind(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 ") == "pickle"


def test_other_weights_are_a_warning_or_rejected_on_demand(artifact: Artifact) -> None:
    warning = artifact.check_compatibility({"text_encoder": 8}, "b" * 64)
    assert warning is not None
    assert "<rex> was made with 'miniature', whose vocabulary has other embeddings" in warning
    with pytest.raises(ArtifactMismatchError) as refusal:
        artifact.check_compatibility({"text_encoder": 8}, "b" * 64, same_weights=True)
    assert str(refusal.value) == warning
