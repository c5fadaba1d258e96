"""Files of sentencepiece, as far as a unigram vocabulary needs them: its pieces and its charsmap.

Protocol Buffers, read by hand, since neither library is needed for anything else. Field numbers:
sentencepiece_model.proto of google/sentencepiece.

Texts as SigLIP reads them: canonical form, pieces of its vocabulary, end and padding.

Prompt scores by SigLIP: how well an image shows what a text says.
"""

import re
import string
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers
from torch import Tensor
from transformers import SiglipModel

from dti_engine.errors import ModelLoadError
from dti_engine.scorers import SIGLIP
from dti_engine.scorers.vision_model import Preprocessing, find_weights, load_model

_PIECES, _NORMALIZER = 1, 3  # of ModelProto
_PIECE, _SCORE, _TYPE = 1, 2, 3  # of SentencePiece
_CHARSMAP = 2  # of NormalizerSpec
_UNKNOWN = 2  # a type of piece


@dataclass(frozen=True, slots=True)
class Spiece:
    """A vocabulary in order of its ids."""

    pieces: list[tuple[str, float]]  # with log probabilities
    unknown: int  # id of the piece for what cannot be spelled
    charsmap: bytes  # compiled normalisation; may be empty


def read_spiece(data: bytes) -> Spiece:
    """Raises: ModelLoadError if it is damaged, or has no piece for the unknown."""
    pieces, unknown, charsmap = list[tuple[str, float]](), None, b""
    try:
        for field, value in _fields(data):
            if field == _PIECES and isinstance(value, bytes):
                stated = dict(_fields(value))
                if stated.get(_TYPE) == _UNKNOWN:
                    unknown = len(pieces)
                pieces.append((_text(stated[_PIECE]), _float(stated.get(_SCORE, bytes(4)))))
            elif field == _NORMALIZER and isinstance(value, bytes):
                charsmap = _bytes(dict(_fields(value)).get(_CHARSMAP, b""))
    except (IndexError, KeyError, ValueError, struct.error) as cause:
        raise ModelLoadError(f"spiece.model is damaged: {cause!r}") from cause
    if unknown is None:
        raise ModelLoadError("spiece.model has no piece for the unknown: download it again")
    return Spiece(pieces, unknown, charsmap)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case other:
                raise ValueError(f"wire type {other}")
        if at + size > len(data):
            raise ValueError("cut short")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()


def _float(value: int | bytes) -> float:
    return struct.unpack("<f", _bytes(value))[0]


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_END = "</s>"  # pads, too


def canonical(text: str) -> str:
    """Lower case, no punctuation, single spaces. Source: big_vision, `canonicalize_text`."""
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


class SiglipTexts:
    """The tokenizer of a SigLIP checkpoint; needs no sentencepiece."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        """length: positions of a text, end and padding included; the model was trained with 64.

        Raises: ModelLoadError if the vocabulary has no end.
        """
        end = tokenizer.token_to_id(_END)
        if end is None:
            raise ModelLoadError(f"a vocabulary without {_END} is none of SigLIP's")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self._length, self._end = tokenizer, length, end

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, length) ids; what is too long is cut off, the end stays."""
        return torch.tensor([self._ids(text) for text in texts])

    def _ids(self, text: str) -> list[int]:
        # tokenizer.json may do the same again, which changes nothing.
        ids = self._tokenizer.encode(canonical(text), add_special_tokens=False).ids
        kept = ids[: self._length - 1]
        return kept + [self._end] * (self._length - len(kept))


def read_texts(folder: Path, length: int) -> SiglipTexts:
    """By the tokenizer.json of a checkpoint, or else by its spiece.model.

    Raises: ModelLoadError if there is neither, or it is damaged.
    """
    fast, slow = folder / "tokenizer.json", folder / "spiece.model"
    try:
        if fast.is_file():
            return SiglipTexts(Tokenizer.from_file(str(fast)), length)
        if slow.is_file():
            return SiglipTexts(_of_spiece(slow.read_bytes()), length)
    except Exception as cause:  # tokenizers raises nothing more special
        raise ModelLoadError(
            f"the tokenizer in {str(folder)!r} cannot be read: {cause}. Download it again"
        ) from cause
    raise ModelLoadError(
        f"{str(folder)!r} has neither tokenizer.json nor spiece.model; download it again, with one"
    )


def _of_spiece(data: bytes) -> Tokenizer:
    spiece = read_spiece(data)
    pieces: Any = models.Unigram(spiece.pieces, unk_id=spiece.unknown, byte_fallback=False)
    tokenizer = Tokenizer(pieces)
    steps = [normalizers.Precompiled(spiece.charsmap)] if spiece.charsmap else []
    steps += [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Of one image: the model's probability that text and image belong together, and the
    cosine that it is a function of. The probability saturates, the cosine does not.
    """

    probability: float
    cosine: float


class Siglip:
    """The model, and what it makes of images and texts."""

    def __init__(
        self, model: SiglipModel, preprocessing: Preprocessing, texts: SiglipTexts
    ) -> None:
        self._model, self._preprocessing, self._texts = model, preprocessing, texts
        self._known: dict[str, Tensor] = {}  # text -> (d,) unit vector

    @classmethod
    def load(cls, weights: str | Path = SIGLIP, *, device: torch.device | str = "cpu") -> Self:
        """By folder or hub id. Raises: ModelLoadError if it is not to be had, or is another."""
        folder = find_weights(weights)
        model = load_model(SiglipModel, folder, torch.device(device))
        config: Any = model.config  # whose parts are annotated as if they could be missing
        texts = read_texts(folder, config.text_config.max_position_embeddings)
        return cls(model, Preprocessing.read(folder), texts)

    @torch.inference_mode()
    def scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[PromptScore]:
        """Of each image with its own text: sigmoid(exp(t) cosine + b), t and b the model's.

        Source: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2.
        """
        pixels = self._preprocessing(images).to(self._model.device)
        shown = _unit(self._model.vision_model(pixel_values=pixels).pooler_output)
        said = torch.stack([self._read(text) for text in texts])
        cosines = (shown * said).sum(dim=-1)
        # The checkpoint has the logarithm of the scale.
        logits = cosines * self._model.logit_scale.exp() + self._model.logit_bias
        pairs = zip(logits.sigmoid().tolist(), cosines.tolist(), strict=True)
        return [PromptScore(probability, cosine) for probability, cosine in pairs]

    def _read(self, text: str) -> Tensor:
        if text not in self._known:
            # No mask: in training, padding was looked at like words.
            ids = self._texts([text]).to(self._model.device)
            self._known[text] = _unit(self._model.text_model(input_ids=ids).pooler_output)[0]
        return self._known[text]


def scored_text(template: str, class_noun: str) -> str:
    """What a prompt asks for in plain words: `a {} on the beach` -> `a dog on the beach.`"""
    return template.replace("{}", class_noun) + "."


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=-1)
