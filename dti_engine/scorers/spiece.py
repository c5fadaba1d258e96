"""Files of sentencepiece, as far as a unigram vocabulary needs them: its pieces and its charsmap.

Protocol Buffers, read by hand, since neither library is needed for anything else. Field numbers:
sentencepiece_model.proto of google/sentencepiece.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dti_engine.errors import BackboneLoadError

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
    """Raises: BackboneLoadError if it is damaged, or has no piece for the unknown."""
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
        raise BackboneLoadError(f"spiece.model is damaged: {cause!r}") from cause
    if unknown is None:
        raise BackboneLoadError("spiece.model has no piece for the unknown: download it again")
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
