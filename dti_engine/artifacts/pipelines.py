"""Load token files into pipelines of diffusers: Stable Diffusion, SDXL and SANA.

diffusers' own `load_textual_inversion` loads one encoder at a time, does not know SANA, and pools a
prompt of SDXL at the token. `load_token` loads all encoders of a file at once, and pools as the
token was trained.

Shapes: n vectors of one token, d coordinates of an embedding, V words of a vocabulary.

Source: diffusers loaders/textual_inversion.py, whose names of further vectors are used here.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.importers import read_foreign
from dti_engine.artifacts.manifest import ARTIFACT_KEY
from dti_engine.config import Pooling
from dti_engine.errors import ArtifactMismatchError, ConfigurationError, TokenError
from dti_engine.text.tokens import require_placeholder

_GEMMA = "gemma"  # the name of SANA's encoder in our files
_LEGACY_EOS_ID = 2  # makes a CLIP model of transformers pool at the highest id of a prompt
_POOLINGS = "dti_poolings"  # an attribute of a text encoder: the poolings of the tokens loaded


@dataclass(frozen=True, eq=False)
class _FileToken:
    """The token of a file: encoder -> (n, d) rows.

    pooling: None for a token of another program, or of a model without a pooled embedding.
    """

    name: str
    embeddings: Mapping[str, Tensor]
    pooling: Pooling | None
    is_foreign: bool


@dataclass(frozen=True, eq=False)
class _PipelineEncoder:
    """A text encoder of a pipeline, and its tokenizer."""

    tokenizer: Any
    model: Any

    @property
    def table(self) -> Tensor:
        """The embedding table (V, d)."""
        return self.model.get_input_embeddings().weight


def load_token(
    pipeline: Any, file: Path | str, second: Path | str | None = None, *, placeholder: str = ""
) -> str:
    """Load a token into a pipeline of diffusers, and return the text to write in a prompt.

    The file is one of this package, or an embedding of another program, as `dti import` reads it.
    The rows keep their magnitudes. Loading the same token again changes nothing.

    Args:
        pipeline: A pipeline of diffusers for Stable Diffusion, SDXL or SANA.
        file: A token file.
        second: The second file of diffusers' pair for SDXL.
        placeholder: Another name for the token, as `<name>`; empty for the name in the file.

    Raises:
        ArtifactError: A file cannot be read, is damaged, or holds no token.
        ArtifactMismatchError: The token was trained for other text encoders.
        TokenError: The name is malformed, or means something else in this pipeline already.
        ConfigurationError: The pipeline has no text encoder, or its weights are not in memory.
    """
    if placeholder:
        require_placeholder(placeholder)
    encoders = _encoders(pipeline)
    token = _read(Path(file), Path(second) if second else None)
    rows = _fitting_rows(token, encoders, str(file), type(pipeline).__name__)
    name = placeholder or token.name
    if _GEMMA in encoders:  # the pipeline lower-cases prompts
        name = name.lower()
    # All checks come before the first change, so that an error leaves the pipeline as it was.
    new = [key for key in encoders if not _is_loaded(encoders[key], name, rows[key])]
    for key in new:
        _add(encoders[key], name, rows[key], strips_blank=key == _GEMMA)
    if token.pooling and "text_encoder_2" in encoders:
        _set_pooling(encoders["text_encoder_2"], token.pooling, name)
    # Pipelines for CLIP expand the name of several vectors themselves.
    return " ".join(_names(name, len(rows[_GEMMA]))) if _GEMMA in encoders else name


def _encoders(pipeline: Any) -> dict[str, _PipelineEncoder]:
    """Return the text encoders under the names of our files. Raises: ConfigurationError."""
    components: Mapping[str, Any] = getattr(pipeline, "components", {})
    found: dict[str, _PipelineEncoder] = {}
    for part, model in components.items():
        if not part.startswith("text_encoder") or model is None:
            continue
        encoder = _PipelineEncoder(components[part.replace("text_encoder", "tokenizer")], model)
        if encoder.table.is_meta:
            raise ConfigurationError(
                f"the weights of {part!r} are not in memory, as after "
                "enable_sequential_cpu_offload(); load tokens before that call"
            )
        kind = str(model.config.model_type)
        is_clip = kind.startswith("clip")
        found[part if is_clip else _GEMMA if kind == "gemma2" else f"{part} ({kind})"] = encoder
    if not found:
        raise ConfigurationError(
            f"{type(pipeline).__name__} has no text encoder; give a pipeline of diffusers for "
            "Stable Diffusion, SDXL or SANA"
        )
    return found


def _read(file: Path, second: Path | None) -> _FileToken:
    """Return the token of a file, or of a pair of diffusers. Raises: ArtifactError."""
    if second is None and _is_artifact(file):
        artifact = Artifact.load(file)
        token = artifact.token
        return _FileToken(
            token.placeholder, token.embeddings, artifact.manifest.origin.pooling, False
        )
    foreign = read_foreign(file, second)
    name = (foreign.name or "*").strip()
    if name == "*":  # means "no name" in files of A1111 and of the first Textual Inversion
        stem = re.sub(r"[^a-z0-9_-]+", "-", file.stem.lower()).strip("-_")
        name = f"<{stem[:63]}>"
        require_placeholder(name)
    return _FileToken(name, foreign.embeddings, None, True)


def _is_artifact(file: Path) -> bool:
    try:
        with safe_open(file, "pt") as opened:
            return ARTIFACT_KEY in (opened.metadata() or {})
    except (OSError, SafetensorError):
        return False  # the reader of foreign files says what is wrong


def _fitting_rows(
    token: _FileToken, encoders: Mapping[str, _PipelineEncoder], file: str, pipeline: str
) -> Mapping[str, Tensor]:
    """Return the rows by encoder of the pipeline. Raises: ArtifactMismatchError."""
    rows = token.embeddings
    if token.is_foreign and len(rows) == len(encoders) == 1:
        # A foreign file of one encoder does not say which one it was trained for.
        rows = dict(zip(encoders, rows.values(), strict=True))
    widths = {key: each.shape[1] for key, each in rows.items()}
    expected = {key: encoder.table.shape[1] for key, encoder in encoders.items()}
    if widths != expected:
        raise ArtifactMismatchError(
            f"the token in {file!r} has vectors of the widths {widths}, the text encoders of this "
            f"{pipeline} have {expected}; use a token that was trained with this family of models, "
            "and give both files of diffusers' pair for SDXL"
        )
    return rows


def _names(name: str, count: int) -> list[str]:
    """Return diffusers' names of the vectors of a token."""
    return [name, *(f"{name}_{index}" for index in range(1, count))]


def _is_loaded(encoder: _PipelineEncoder, name: str, rows: Tensor) -> bool:
    """Return whether the token is there already. Raises: TokenError if the name means another."""
    vocabulary: Mapping[str, int] = encoder.tokenizer.get_vocab()
    names = _names(name, len(rows))
    # One name more: a token of more vectors is another token.
    taken = [each for each in _names(name, len(rows) + 1) if each in vocabulary]
    if taken == names:
        found = encoder.table[[vocabulary[each] for each in names]]
        if torch.equal(found, rows.to(found)):
            return True
    # CLIP has "dog" as "dog</w>", and Gemma " dog" as "▁dog": a word is one piece.
    pieces: list[str] = encoder.tokenizer.tokenize(name)
    is_word = len(pieces) == 1 and pieces != [encoder.tokenizer.unk_token]
    if not taken and not is_word:
        return False
    raise TokenError(
        f"{(taken or [name])[0]!r} is in the vocabulary of this pipeline already, as a word or as "
        "another token; give another name, such as placeholder='<my-subject>'"
    )


def _add(encoder: _PipelineEncoder, name: str, rows: Tensor, *, strips_blank: bool) -> None:
    """Add the names to the tokenizer and write the rows into the table.

    strips_blank: the blank before a name is a part of it, for vocabularies where " dog" is a word.
    """
    names = _names(name, len(rows))
    added = [AddedToken(each, lstrip=True, normalized=False) for each in names]
    encoder.tokenizer.add_tokens(added if strips_blank else names)
    ids: list[int] = encoder.tokenizer.convert_tokens_to_ids(names)
    if max(ids) >= len(encoder.table):
        # The mean of the vocabulary is of no use here, and takes minutes for a large one.
        encoder.model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        encoder.table[ids] = rows.to(encoder.table)


def _set_pooling(encoder: _PipelineEncoder, pooling: Pooling, name: str) -> None:
    """Make the encoder pool prompts as the token was trained."""
    model = getattr(encoder.model, "text_model", encoder.model)
    loaded: set[Pooling] = {*getattr(model, _POOLINGS, ()), pooling}
    setattr(model, _POOLINGS, loaded)
    # Where they differ, the end of a prompt attends to every token (`common_pooling`).
    is_legacy = loaded == {"legacy"}
    model.eos_token_id = _LEGACY_EOS_ID if is_legacy else encoder.tokenizer.eos_token_id
    if len(loaded) > 1:
        warnings.warn(
            f"with {name} this pipeline has tokens that were trained with pooling 'eos' and with "
            "'legacy'; all prompts are pooled at their end now. For the same images as with each "
            "alone, load them into pipelines of their own",
            stacklevel=3,
        )
