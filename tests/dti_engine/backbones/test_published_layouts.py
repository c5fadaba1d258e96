"""Files as they were published load as those that today's libraries write, to the same values.

Published models were saved years ago, under other names of weights, in shards, and with tokenizers
in more files. Here tiny checkpoints are rewritten so; the originals say what must come out.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.backbones.registry import published
from dti_engine.errors import ModelLoadError, TokenError
from dti_engine.text.inputs import PromptBatch, Rows
from dti_engine.text.prompts import bind

pytestmark = pytest.mark.slow

PROMPTS = [
    "a photo of a red dog on the beach",
    "Dog, CAT & bird!",
    "wow!!! 2 dogs\n\nin  the snow",
    "",
    "dog " * 100,
]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def sdxl(make_sdxl_checkpoint: Callable[..., Path]) -> Path:
    return make_sdxl_checkpoint()


@pytest.fixture(scope="module")
def sana(make_sana_checkpoint: Callable[..., Path]) -> Path:
    return make_sana_checkpoint()


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """copied(weights) -> a copy to rewrite."""
    return lambda weights: Path(shutil.copytree(weights, tmp_path / "rewritten"))


def bound(backbone: Backbone) -> tuple[PromptBatch, Rows]:
    """Each prompt with the instruction and without, for models that have one."""
    prompts = [each for each in PROMPTS for _ in range(2)]
    instructed = [False, True] * len(PROMPTS) if "gemma" in backbone.text_encoders else None
    return bind(prompts, [{}] * len(prompts), backbone.text_encoders, instructed)


def conditioned(backbone: Backbone) -> Conditioning:
    return backbone.encode_prompts(*bound(backbone))


def assert_reads_alike(found: Backbone, expected: Backbone) -> None:
    """Check that ids, padding and encoded prompts are the same."""
    assert found.fingerprint == expected.fingerprint
    (spelled, _), (expected_spelled, _) = bound(found), bound(expected)
    for name, inputs in expected_spelled.inputs.items():
        for field in ("ids", "length", "pooled_index"):
            assert torch.equal(getattr(spelled.inputs[name], field), getattr(inputs, field))
    actual, reference = conditioned(found), conditioned(expected)
    for field in ("hidden", "pooled", "mask"):
        assert_same(getattr(actual, field), getattr(reference, field))


def assert_same(found: Tensor | None, expected: Tensor | None) -> None:
    if found is None or expected is None:
        assert found is expected
    else:
        assert torch.equal(found, expected)


def weights_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def rewrite_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


# Names of weights


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_autoencoder_with_the_old_names_of_attention_is_the_same(
    tiny_checkpoint: Path, copied: Callable[[Path], Path], dtype: torch.dtype
) -> None:
    """Stable Diffusion 1 and 2 have these names."""
    weights = copied(tiny_checkpoint)
    path = weights_file(weights / "vae")
    named = {_old_attention_name(key): value for key, value in load_file(path).items()}
    attention = [key for key in named if ".attentions.0." in key]
    assert sum(key.split(".")[-2] in ("query", "key", "value", "proj_attn") for key in attention)
    assert not any(".to_" in key for key in named)
    save_file(named, path, metadata={"format": "pt"})

    found, expected = (load_backbone(each, dtype=dtype) for each in (weights, tiny_checkpoint))
    pixels = 2 * torch.rand(2, 3, 16, 16) - 1
    encoded, latents = expected.encode_images(pixels), found.encode_images(pixels)
    assert torch.equal(latents.mean, encoded.mean)
    assert torch.equal(latents.std, encoded.std)
    assert torch.equal(found.decode_latents(latents.mean), expected.decode_latents(encoded.mean))
    vae = vars(found)["_vae"]
    assert {p.dtype for p in vae.decoder.parameters()} == {dtype}
    assert {p.dtype for p in vae.encoder.parameters()} == {torch.float32}


def _old_attention_name(key: str) -> str:
    if ".attentions." not in key:
        return key
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in renamed.items():
        key = key.replace(f".{new}.", f".{old}.")
    return key


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_encoders_with_a_prefix_and_stored_positions_are_the_same(
    sdxl: Path, copied: Callable[[Path], Path], dtype: torch.dtype
) -> None:
    """Both classes, with and without a projection, are nested differently by new libraries."""
    weights = copied(sdxl)
    for part in ("text_encoder", "text_encoder_2"):
        path = weights_file(weights / part)
        named = {
            key
            if key.startswith(("text_model.", "text_projection."))
            else f"text_model.{key}": value
            for key, value in load_file(path).items()
        }
        named["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        assert ("text_projection.weight" in named) == (part == "text_encoder_2")
        save_file(named, path, metadata={"format": "pt"})
    assert_reads_alike(load_backbone(weights, dtype=dtype), load_backbone(sdxl, dtype=dtype))


# Shards


SHARDED = [
    ("sana", "transformer"),
    ("sana", "text_encoder"),
    ("sdxl", "unet"),
    ("sdxl", "text_encoder_2"),
]


@pytest.mark.parametrize(("family", "part"), SHARDED)
def test_a_part_in_shards_is_the_same(
    family: str, part: str, copied: Callable[[Path], Path], request: pytest.FixtureRequest
) -> None:
    whole: Path = request.getfixturevalue(family)
    weights = copied(whole)
    _shard(weights / part)
    found, expected = load_backbone(weights), load_backbone(whole)
    assert_reads_alike(found, expected)
    conditioning = conditioned(expected)
    noisy = torch.randn(len(conditioning.hidden), *expected.latent_shape(32, 32))
    t = torch.full((len(noisy),), 600)
    assert torch.equal(
        found.denoise(noisy, t, conditioning), expected.denoise(noisy, t, conditioning)
    )


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize(("family", "part"), SHARDED)
def test_a_missing_shard_is_refused_and_its_part_is_named(
    family: str,
    part: str,
    missing: int,
    copied: Callable[[Path], Path],
    request: pytest.FixtureRequest,
) -> None:
    weights = copied(request.getfixturevalue(family))
    _shard(weights / part)[missing].unlink()
    with pytest.raises(ModelLoadError, match=f"part '{part}' of checkpoint 'rewritten' "):
        load_backbone(weights)


def _shard(folder: Path) -> list[Path]:
    """Two files and an index in place of one file."""
    whole = weights_file(folder)
    tensors = load_file(whole)
    whole.unlink()
    keys = sorted(tensors)
    halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    shards = [whole.with_name(f"{whole.stem}-{n:05}-of-00002.safetensors") for n in (1, 2)]
    for half, shard in zip(halves, shards, strict=True):
        save_file({key: tensors[key] for key in half}, shard, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(each.nbytes for each in tensors.values())},
        "weight_map": {
            key: shard.name for half, shard in zip(halves, shards, strict=True) for key in half
        },
    }
    (folder / f"{whole.name}.index.json").write_text(json.dumps(index))
    return shards


# Tokenizers


def _token(content: str, **options: Any) -> dict[str, Any]:
    """One mark, as transformers 4 wrote it in `special_tokens_map.json` and elsewhere."""
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"content": content, **plain, **options}


@pytest.mark.parametrize("marks", ["as objects", "by id"])
def test_clip_tokenizers_of_vocabulary_and_merges_spell_the_same(
    sdxl: Path, copied: Callable[[Path], Path], marks: str
) -> None:
    """Older files have special tokens as objects, later ones in a table by id.

    The second tokenizer pads with "!", which is a word as well.
    """
    weights = copied(sdxl)
    for part, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        _write_clip_tokenizer(weights / part, pad, by_id=marks == "by id")
    found, expected = load_backbone(weights), load_backbone(sdxl)
    assert_reads_alike(found, expected)
    first, second = found.text_encoders.values()
    assert second.segment_ids("!") == [second.pad_id]
    assert first.pad_id != second.pad_id
    for encoder in (first, second):
        with pytest.raises(TokenError, match="cannot read as text"):
            encoder.segment_ids("a dog<|endoftext|>")


def _write_clip_tokenizer(folder: Path, pad: str, *, by_id: bool) -> None:
    """Write the four files of transformers 4 instead of the one file of transformers 5."""
    begin, end = "<|startoftext|>", "<|endoftext|>"
    bpe = json.loads((folder / "tokenizer.json").read_text())["model"]
    shutil.rmtree(folder)
    folder.mkdir()
    vocabulary: dict[str, int] = bpe["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    _write_merges(folder / "merges.txt", bpe["merges"])
    roles = {"bos_token": begin, "eos_token": end, "unk_token": end}
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
    }
    if by_id:
        table = {
            str(vocabulary[mark]): _token(mark, normalized=mark == begin, special=mark == pad)
            for mark in {begin, end, pad}
        }
        options = {"additional_special_tokens": [], "clean_up_tokenization_spaces": True}
        config |= roles | options | {"added_tokens_decoder": table}
        stated: dict[str, Any] = dict(roles)
    else:
        stated = {role: _token(mark) for role, mark in roles.items()}
        typed = {role: {"__type": "AddedToken", **each} for role, each in stated.items()}
        config |= typed | {
            "name_or_path": "openai/clip-vit-large-patch14",
            "special_tokens_map_file": "./special_tokens_map.json",
        }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(stated | {"pad_token": pad}))


def _write_merges(path: Path, merges: Iterable[tuple[str, str]]) -> None:
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_gemmas_tokenizer_of_transformers_4_spells_the_same_and_is_padded_on_the_right(
    sana: Path, copied: Callable[[Path], Path], padding_side: str
) -> None:
    weights = copied(sana)
    _write_gemma_tokenizer(weights / "tokenizer", padding_side)
    named = {"tokenizer": ["transformers", "GemmaTokenizerFast"]}
    rewrite_json(weights / "model_index.json", lambda index: index | named)
    found, expected = load_backbone(weights), load_backbone(sana)
    assert_reads_alike(found, expected)
    encoder = found.text_encoders["gemma"]
    inputs = bound(found)[0].inputs["gemma"]
    padding = torch.arange(inputs.ids.shape[1]) >= inputs.length[:, None]
    assert set(inputs.ids[padding].tolist()) == {encoder.pad_id}
    assert encoder.pad_id not in inputs.ids[~padding]
    assert encoder.segment_ids("\n") == expected.text_encoders["gemma"].segment_ids("\n")
    for text in (
        "<bos>",
        "a <eos>",
        "<pad>",
        "<UNK>",
        "<mask>",
        "<start_of_turn>",
        "<end_of_turn>",
    ):
        with pytest.raises(TokenError, match="cannot read as text"):
            encoder.segment_ids(text)


def _write_gemma_tokenizer(folder: Path, padding_side: str) -> None:
    """Write merges as text, with line feeds among the added tokens, and a table of these by id."""
    content = json.loads((folder / "tokenizer.json").read_text())
    shutil.rmtree(folder)
    folder.mkdir()
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    line_feed = {"id": content["model"]["vocab"]["\n"], **_token("\n", normalized=False)}
    content["added_tokens"].append(line_feed | {"special": False})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    roles = {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "pad", "unk")}
    turns = ["<start_of_turn>", "<end_of_turn>"]
    config = roles | {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(each["id"]): {key: value for key, value in each.items() if key != "id"}
            for each in content["added_tokens"]
        },
        "additional_special_tokens": turns,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
        "padding_side": padding_side,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "use_default_system_prompt": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    stated = {role: _token(mark, normalized=False) for role, mark in roles.items()}
    stated_turns = {"additional_special_tokens": turns}
    (folder / "special_tokens_map.json").write_text(json.dumps(stated | stated_turns))


# Configurations


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemmas_published_configuration_gives_the_same_states(
    sana: Path, copied: Callable[[Path], Path], dtype: torch.dtype
) -> None:
    """It names no kinds of layers and has fields of transformers 4, but for the tiny sizes."""
    weights = copied(sana)
    stated = published("sana-1.6b").configuration("text_encoder")
    assert "layer_types" not in stated
    assert "rope_parameters" not in stated
    assert isinstance(stated["eos_token_id"], list)
    assert (stated["cache_implementation"], stated["torch_dtype"]) == ("hybrid", "bfloat16")
    sizes = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"}
    sizes |= {"num_attention_heads", "num_key_value_heads", "query_pre_attn_scalar"}
    sizes |= {"sliding_window"}  # shorter than the instruction, so that kinds of layers differ

    def shrink(tiny: dict[str, Any]) -> dict[str, Any]:
        return stated | {size: tiny[size] for size in sizes}

    rewrite_json(weights / "text_encoder" / "config.json", shrink)
    found, expected = (load_backbone(each, dtype=dtype) for each in (weights, sana))
    assert found.text_encoders["gemma"].vocabulary().dtype == torch.float32
    assert_reads_alike(found, expected)
