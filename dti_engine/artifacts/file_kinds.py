"""Kinds of files that are given as tokens, told by their content alone. Loads no torch."""

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from dti_engine.images.file_formats import image_format

FileKind: TypeAlias = Literal["safetensors", "zip", "pickle"]
"""A kind that may hold a token. zip: what `torch.save` writes; pickle: what it wrote before 1.6."""

_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library

_MAGIC: Final[Mapping[bytes, str]] = {
    b"version https://git-lfs": "a Git LFS pointer and not the file itself: fetch it by "
    "`git lfs pull`, or download it from the web page of the file",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"BZh": "a bzip2 archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive: unpack it",
    b"GGUF": "a GGUF model and not a token",
    b"\x93NUMPY": "a NumPy array: save it with safetensors, as {token: array}",
    b"\x89HDF": "an HDF5 file and not a token",
    b"%PDF": "a PDF document",
    b"MZ": "a Windows program",
    b"\x7fELF": "a Linux program",
}


def file_kind(data: bytes) -> FileKind | None:
    """Return the kind that a file begins as; None if it cannot hold a token."""
    if data.startswith(b"PK\x03\x04"):
        return "zip"
    # Before pickles: a header of 640 bytes makes a file begin with 80 02, as a pickle does.
    if data[8:9] == b"{" and header_size(data) <= _LONGEST_HEADER:
        return "safetensors"
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return None


def header_size(data: bytes) -> int:
    """Return the length in bytes of a safetensors file's header, as the file states it."""
    return int.from_bytes(data[:8], "little")


def describe_other(data: bytes) -> str:
    """Return what a file is that cannot hold a token, and what to do with it."""
    if not data:
        return "the file is empty: download it or save it again"
    if not data.strip(b"\0"):
        return "the file has nothing but zero bytes, as after a broken download: download it again"
    for magic, description in _MAGIC.items():
        if data.startswith(magic):
            return description
    if image := image_format(data):
        return (
            f"a {image} image: if it is an embedding of A1111 in an image, save it there as .pt, "
            "and give that file"
        )
    if data[257:262] == b"ustar":
        return "a tar archive: unpack it"
    return _describe_text(data[:1000]) or (
        f"neither a safetensors file nor one of torch.save: it begins with {data[:8].hex(' ')}"
    )


def _describe_text(start: bytes) -> str | None:
    # Latin-1 never fails; a text in any other encoding differs from it in letters beyond ASCII.
    text = start.removeprefix(b"\xef\xbb\xbf").decode("latin-1").strip()
    if re.match(r"<(!doctype html|html|head|body)", text, re.IGNORECASE):
        return (
            "an HTML page, such as one that asks for a login or tells of an error, and not the "
            "file: download it again"
        )
    if text.startswith(("<?xml", "<Error")):
        return "an XML text, such as an error of a server, and not the file: download it again"
    if not text or re.search(r"[^\s\x20-\x7e\xa0-\xff]", text):
        return None
    if text[0] in "{[":
        return "a JSON text, such as an error of a server, and not the file: download it again"
    return f"a text that begins with {text[:40]!r}, and not a token"
