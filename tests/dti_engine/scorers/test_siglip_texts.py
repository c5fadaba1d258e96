"""Texts are canonical, end with one end token and are padded with it, from either file format."""

import struct
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from dti_engine.errors import ModelLoadError
from dti_engine.scorers.siglip import canonical, load_tokenizer


def _message(*fields: tuple[int, int | float | bytes]) -> bytes:
    """Protocol Buffers: numbers, single floats and bytes by their field numbers."""
    data = bytearray()
    for number, value in fields:
        if isinstance(value, bytes):
            data += bytes([number << 3 | 2]) + _varint(len(value)) + value
        elif isinstance(value, float):
            data += bytes([number << 3 | 5]) + struct.pack("<f", value)
        else:
            data += bytes([number << 3]) + _varint(value)
    return bytes(data)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _spiece(pieces: list[tuple[str, float]]) -> bytes:
    """Id 2 is the unknown; beside the pieces a trainer's notes, as in any real file."""
    types = {0: 3, 1: 3, 2: 2}
    actual = [
        _message((1, piece.encode()), (2, score), (3, types.get(index, 1)))
        for index, (piece, score) in enumerate(pieces)
    ]
    trainer = _message((1, b"x" * 300), (3, 1), (4, 32000))
    return _message(*((1, each) for each in actual), (2, trainer), (3, _message((1, b"identity"))))


def test_canonical_text_is_lower_case_without_punctuation() -> None:
    assert canonical(" A  Dog's hat, on\tthe (Red) rug. ") == "a dogs hat on the red rug"


def test_a_text_ends_once_and_is_padded_with_its_end(tiny_scorers: Path) -> None:
    texts = load_tokenizer(tiny_scorers / "siglip-base-patch16-512", 64)
    ids = texts(["a red dog on the beach.", "A red Dog, on the   beach"])
    assert ids.shape == (2, 64)
    assert ids[0].tolist() == ids[1].tolist()
    assert ids[0, 6:].tolist() == [1] * 58
    assert 1 not in ids[0, :6]


def test_a_long_text_is_cut_and_keeps_its_end_token(tiny_scorers: Path) -> None:
    texts = load_tokenizer(tiny_scorers / "siglip-base-patch16-512", 64)
    ids = texts(["dog " * 100])[0].tolist()
    assert ids[-1] == 1
    assert len(set(ids[:63])) == 1


def test_spiece_model_gives_the_same_ids(tiny_scorers: Path, tmp_path: Path) -> None:
    source = tiny_scorers / "siglip-base-patch16-512"
    vocabulary = Tokenizer.from_file(str(source / "tokenizer.json")).get_vocab()
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    pieces = [(name, -2.0 if name[0] == "▁" else -9.0) for name in names]
    (tmp_path / "spiece.model").write_bytes(_spiece(pieces))
    cases = ["a photo of a red dog", "An unknown word: 42", "hats", "", "Ä dog"]
    assert (
        load_tokenizer(tmp_path, 64)(cases).tolist() == load_tokenizer(source, 64)(cases).tolist()
    )


def test_a_vocabulary_without_an_end_is_refused(tmp_path: Path) -> None:
    pieces = [("<pad>", 0.0), ("<s>", 0.0), ("<unk>", 0.0), ("▁dog", -3.5)]
    (tmp_path / "spiece.model").write_bytes(_spiece(pieces))
    with pytest.raises(ModelLoadError, match="has no </s>"):
        load_tokenizer(tmp_path, 64)


@pytest.mark.parametrize("data", [b"", b"\x0a\xff", _spiece([("a", 0.0)] * 3)[:20], b"\x0b"])
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "spiece.model").write_bytes(data)
    with pytest.raises(ModelLoadError, match="ownload it again"):
        load_tokenizer(tmp_path, 64)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"neither tokenizer\.json nor spiece\.model"):
        load_tokenizer(tmp_path, 64)
