"""Texts as SigLIP reads them: canonical form, pieces of its vocabulary, end and padding."""

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers
from torch import Tensor

from dti_engine.errors import BackboneLoadError
from dti_engine.scorers.spiece import read_spiece

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_END = "</s>"  # pads, too


def canonical(text: str) -> str:
    """Lower case, no punctuation, single spaces. Source: big_vision, `canonicalize_text`."""
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


class SiglipTexts:
    """The tokenizer of a SigLIP checkpoint; needs no sentencepiece."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        """length: positions of a text, end and padding included; the model was trained with 64.

        Raises: BackboneLoadError if the vocabulary has no end.
        """
        end = tokenizer.token_to_id(_END)
        if end is None:
            raise BackboneLoadError(f"a vocabulary without {_END} is none of SigLIP's")
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

    Raises: BackboneLoadError if there is neither, or it is damaged.
    """
    fast, slow = folder / "tokenizer.json", folder / "spiece.model"
    try:
        if fast.is_file():
            return SiglipTexts(Tokenizer.from_file(str(fast)), length)
        if slow.is_file():
            return SiglipTexts(_of_spiece(slow.read_bytes()), length)
    except Exception as cause:  # tokenizers raises nothing more special
        raise BackboneLoadError(
            f"the tokenizer in {str(folder)!r} cannot be read: {cause}. Download it again"
        ) from cause
    raise BackboneLoadError(
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
