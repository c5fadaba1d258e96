"""Files of checkpoints, and which of them are refused; going on: `test_checkpoints_going_on`."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image
from pydantic import ValidationError

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import CheckpointError, OutputError
from dti_engine.recipes import standard_ti
from dti_engine.subject import Subject
from dti_engine.training.checkpoint import Checkpoint, CheckpointHeader
from dti_engine.training.trainer import Trainer

ENCODER = "text_encoder"
CONFIG = TrainConfig(steps=10, batch_size=2, resolution=16, lr=0.04)
MakeSubject = Callable[..., Subject]


@pytest.fixture(scope="module")
def checkpoint(tiny_backbone: Backbone, make_subject: MakeSubject) -> Checkpoint:
    """Return the checkpoint of subject 1 after 3 steps."""
    trainer = Trainer(tiny_backbone, CONFIG, num_slots=1)
    trainer.add(make_subject(1))
    for _ in range(3):
        trainer.step()
    return trainer.checkpoint(0)


def test_a_saved_checkpoint_is_loaded_unchanged(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "rex.safetensors"
    checkpoint.save(path)
    loaded = Checkpoint.load(path)
    assert (loaded.header, loaded.metrics) == (checkpoint.header, checkpoint.metrics)
    assert loaded.metrics[-1].elapsed_s == pytest.approx(checkpoint.metrics[-1].elapsed_s)
    assert loaded.path == path
    for name, value in checkpoint.states[ENCODER].items():
        assert torch.equal(loaded.states[ENCODER][name], value)
    assert loaded.to_bytes() == checkpoint.to_bytes()


def test_the_same_checkpoint_always_gives_the_same_bytes(checkpoint: Checkpoint) -> None:
    assert len({checkpoint.to_bytes() for _ in range(20)}) == 1


@pytest.mark.parametrize("config", [CONFIG, standard_ti(CONFIG)], ids=["dti", "ti"])
def test_a_checkpoint_of_the_largest_encoder_late_in_training_takes_less_than_100_kb(
    checkpoint: Checkpoint, config: TrainConfig
) -> None:
    provenance = checkpoint.header.provenance.model_copy(
        update={"config": config.changed(steps=500)}
    )
    states = {
        encoder: {str(i): torch.zeros(2, dim) for i in range(4)}
        for encoder, dim in (("text_encoder", 768), ("text_encoder_2", 1280))
    }
    large = replace(
        checkpoint,
        header=checkpoint.header.model_copy(update={"provenance": provenance, "step": 499}),
        states=states,
        metrics=(checkpoint.metrics[0],) * 499,
    )
    assert len(large.to_bytes()) < 100_000


def test_a_file_that_cannot_be_read_or_written_is_named(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"cannot read '{tmp_path}"):
        Checkpoint.load(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        checkpoint.save(tmp_path / "folder")


# What is refused


def _changed(
    checkpoint: Checkpoint, change: Callable[[dict[str, Any]], object] = lambda header: None
) -> bytes:
    """Return the file with an edited header under the old digest."""
    data = checkpoint.to_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    digest, _, text = metadata["dti_checkpoint"].partition(" ")
    header = json.loads(text)
    change(header)
    metadata["dti_checkpoint"] = f"{digest} {json.dumps(header)}"
    return safetensors.torch.save(safetensors.torch.load(data), metadata)


def test_a_damaged_file_is_refused_wherever_a_bit_has_turned(checkpoint: Checkpoint) -> None:
    data = checkpoint.to_bytes()
    for place in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[place] ^= 1
        try:
            loaded = Checkpoint.from_bytes(bytes(damaged))
        except CheckpointError:
            continue
        assert loaded.to_bytes() == data, place  # such as in the padding of the header


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_first_loss_that_json_cannot_hold_is_refused(checkpoint: Checkpoint, loss: float) -> None:
    fields = checkpoint.header.model_dump() | {"first_fixed_loss": loss}
    with pytest.raises(ValidationError, match="first_fixed_loss"):
        CheckpointHeader.model_validate(fields)


def test_a_file_cut_short_is_refused_and_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    data, path = checkpoint.to_bytes(), tmp_path / "rex.safetensors"
    for length in range(0, len(data), 11):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=f"'{path}' cannot be used: .*damaged"):
            Checkpoint.load(path)


def test_files_of_something_else_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        Checkpoint.from_bytes(pickle.dumps({"step": 1}))
    with pytest.raises(CheckpointError, match="no header"):
        Checkpoint.from_bytes(safetensors.torch.save({"a": torch.zeros(2)}))


def test_a_newer_or_edited_header_is_refused(checkpoint: Checkpoint) -> None:
    newer = _changed(checkpoint, lambda header: header.update(schema_version=2, novelty=1))
    with pytest.raises(CheckpointError, match=r"schema is 2, .* up to 1; update the engine"):
        Checkpoint.from_bytes(newer)
    edited = _changed(checkpoint, lambda header: header.update(step=2))
    with pytest.raises(CheckpointError, match="does not have the digest"):
        Checkpoint.from_bytes(edited)


def test_a_header_that_contradicts_the_reports_is_refused(checkpoint: Checkpoint) -> None:
    header = checkpoint.header.model_copy(update={"step": 5})
    with pytest.raises(CheckpointError, match=r"step 5 of 10, metrics \[3, 9\]"):
        Checkpoint.from_bytes(replace(checkpoint, header=header).to_bytes())


def _with_mask(subject: Subject) -> Subject:
    first, *rest = subject.images
    masked = replace(first, mask=Image.new("L", first.image.size, 200))
    return replace(subject, images=[masked, *rest])


def _with_caption(subject: Subject) -> Subject:
    first, *rest = subject.images
    return replace(subject, images=[replace(first, caption="a {} on a beach"), *rest])


def _of_style(subject: Subject) -> Subject:
    return replace(subject, config=CONFIG.changed(captions="style"))


@pytest.mark.parametrize(
    ("change", "config", "reason"),
    [
        (lambda subject: replace(subject, seed=9), {}, "seed was 1, is now 9"),
        (lambda subject: replace(subject, id="tom"), {}, "subject was 'subject-1', is now 'tom'"),
        (lambda subject: replace(subject, placeholder="<tom>"), {}, "is now '<tom>'"),
        (lambda subject: replace(subject, initializer="cat"), {}, "'dog', is now 'cat'"),
        (lambda subject: replace(subject, num_vectors=2), {}, "num_vectors was {'text_encoder': 1"),
        (_of_style, {}, "captions was 'object', is now 'style'"),
        (_with_mask, {}, "images, captions or masks have changed; they were those of 10.png"),
        (_with_caption, {}, "images, captions or masks have changed; they were those of 10.png"),
        (
            lambda subject: replace(subject, images=subject.images[::-1]),
            {},
            "images, captions or masks have changed",
        ),
        (lambda subject: subject, {"lr": 0.02}, "lr was 0.04, is now 0.02"),
        (lambda subject: subject, {"steps": 20}, "steps was 10, is now 20"),
        (lambda subject: subject, {"ema_decay": 0.9}, "ema_decay was 0.0, is now 0.9"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_and_nothing_has_changed(
    tiny_backbone: Backbone,
    make_subject: MakeSubject,
    checkpoint: Checkpoint,
    change: Callable[[Subject], Subject],
    config: dict[str, Any],
    reason: str,
) -> None:
    trainer = Trainer(tiny_backbone, CONFIG.changed(**config), num_slots=1)
    with pytest.raises(CheckpointError) as refused:
        trainer.add(change(make_subject(1)), checkpoint)
    assert reason in str(refused.value)
    assert "delete it to start afresh" in str(refused.value)
    assert trainer.slots == [None]
    assert not trainer.optimizers[ENCODER].active.any()


def test_a_checkpoint_of_other_weights_or_another_dtype_is_refused(
    exact_backbone: Backbone,
    tiny_backbone: Backbone,
    make_subject: MakeSubject,
    checkpoint: Checkpoint,
) -> None:
    with pytest.raises(CheckpointError, match="dtype was 'float32', is now 'float64'"):
        Trainer(exact_backbone, CONFIG, num_slots=1).add(make_subject(1), checkpoint)
    provenance = checkpoint.header.provenance.model_copy(update={"model_fingerprint": "a" * 64})
    foreign = replace(
        checkpoint, header=checkpoint.header.model_copy(update={"provenance": provenance})
    )
    with pytest.raises(CheckpointError, match="model_fingerprint was 'aaa"):
        Trainer(tiny_backbone, CONFIG, num_slots=1).add(make_subject(1), foreign)


def test_rows_of_another_form_are_refused(
    tiny_backbone: Backbone, make_subject: MakeSubject, checkpoint: Checkpoint
) -> None:
    states = {ENCODER: {**checkpoint.states[ENCODER], "directions": torch.zeros(1, 8)}}
    with pytest.raises(CheckpointError, match="the state for text_encoder was"):
        Trainer(tiny_backbone, CONFIG, num_slots=1).add(
            make_subject(1), replace(checkpoint, states=states)
        )
