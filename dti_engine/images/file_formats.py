"""Kinds of image files, told by their content alone, and the decoders that untrusted files get."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

try:
    import pillow_heif
except ImportError:  # the extra `heif` is not installed
    _heif_decoder: tuple[str, ...] = ()
else:
    pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
    _heif_decoder = ("HEIF",)

# Pillow reads dozens of formats, some with a history of faults, and EPS by starting Ghostscript. An
# untrusted file gets these decoders alone, whatever its first bytes say.
DECODERS = ("JPEG", "PNG", "WEBP", "AVIF", *_heif_decoder)

READABLE = "JPEG, PNG, WebP, AVIF or HEIC"
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif"}
)
"""Names by which folders of images are recognised, and that claim to be an image."""

# Kinds of images that are not read: a user may believe that a token is learned from them.
_OTHER_IMAGES: "Mapping[bytes, str]" = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF or camera raw",
    b"MM\0*": "TIFF or camera raw",
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"gimp xcf": "GIMP",
}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


def image_format(data: bytes) -> str | None:
    """Return the kind of image that a file begins as, or None if it is no image.

    The result is one of JPEG, PNG, WEBP, AVIF and HEIF, or another name, whose files are not read.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _iso_format(data)
    return next((name for magic, name in _OTHER_IMAGES.items() if data.startswith(magic)), None)


def _iso_format(data: bytes) -> str | None:
    """Return the kind of a file in the ISO base media format; None for films."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    # The second field is a version; the first is the main brand, which may be a mere `mif1`.
    brands = {data[start : start + 4] for start in (8, *range(16, size - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIF"
    return "camera raw" if data[8:12] == b"crx " else None


def reading_error(format: str | None) -> str | None:
    """Return why files of this kind cannot be decoded here and what to do; None if they can."""
    if format == "HEIF" and format not in DECODERS:
        return (
            "a HEIC image; install the extra 'heif' (pip install 'dti[heif]'), or save it as JPEG"
        )
    if format in DECODERS:
        return None
    if format is None:
        return f"its content is not {READABLE}, or is damaged"
    return f"a {format} image; save it as {READABLE}"
