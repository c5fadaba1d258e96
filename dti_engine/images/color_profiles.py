"""Colour profiles: what an image file says of its colours, and their conversion to sRGB.

Files state their colours in four ways: by an ICC profile, by the code points of ITU-T H.273 (the
`cICP` chunk of PNG, the `nclx` box of AVIF and HEIF), by `gAMA` and `cHRM` (PNG), and as Adobe RGB
by Exif (cameras). Each statement becomes an ICC profile here, so that one library, LittleCMS,
converts all of them. Loads neither torch nor numpy.
"""

import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, cast

from PIL import ExifTags, Image, ImageChops, ImageCms

from dti_engine.errors import InvalidImageError
from dti_engine.images.icc import (
    ADOBE_CURVE,
    ADOBE_RGB,
    H273_PRIMARIES,
    H273_TRANSFERS,
    HDR_TRANSFERS,
    SRGB,
    SRGB_CURVE,
    UNSPECIFIED,
    Chromaticities,
    TransferCurve,
    icc_profile,
)

if TYPE_CHECKING:
    from PIL._imagingcms import CmsProfile

_SAME_LEVELS = 2  # of 255; profiles of sRGB by different makers differ by as much
_CUBE = 17  # levels of each channel at which profiles are compared
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> mode
# What LittleCMS and Pillow raise for a profile that is damaged, or is for something else.
_PROFILE_ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


def to_srgb(image: Image.Image, profiles: Sequence[bytes]) -> Image.Image:
    """Return an image of mode L, RGB or CMYK as sRGB, by the first profile that can be used.

    A profile that is damaged, or is of another kind than the
    image, is passed over; so is one that moves no colour by more than two levels of 255, because
    that is sRGB itself, and its images keep every bit.
    """
    for profile in profiles:
        try:
            return _converted(image, profile)
        except _PROFILE_ERRORS:
            continue
    return image.convert("RGB")


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert by one profile. Raises: _PROFILE_ERRORS if it cannot be used."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    mode = _MODES.get(_color_space(source))
    # Grey images with a profile for RGB are common: software that drops the colour keeps it.
    if mode is None or (mode != image.mode and (mode, image.mode) != ("RGB", "L")):
        raise ValueError("a profile for another kind of image")
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode != "CMYK" and _keeps_all_colours(transform, mode):
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image.convert(mode), transform)
    assert converted is not None  # None only where it works in place
    return converted


def _color_space(profile: ImageCms.ImageCmsProfile) -> str:
    """Return RGB, GRAY, CMYK or another colour space of ICC.1:2022, table 19."""
    core = cast("CmsProfile", profile.profile)  # Pillow annotates it as another thing
    return core.xcolor_space.strip()


def _keeps_all_colours(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether colours that fill the cube of RGB, or all greys, stay as they are."""
    levels = [round(255 * step / (_CUBE - 1)) for step in range(_CUBE)]
    cube = bytes(each for r in levels for g in levels for b in levels for each in (r, g, b))
    greys = bytes(range(256))
    pixels = greys if mode == "L" else cube + bytes(each for each in greys for _ in range(3))
    before = Image.frombytes(mode, (len(pixels) // len(mode), 1), pixels)
    after = ImageCms.applyTransform(before, transform)
    assert after is not None
    difference = ImageChops.difference(before.convert("RGB"), after)
    return max(high for _, high in _extremes(difference)) <= _SAME_LEVELS


def _extremes(image: Image.Image) -> list[tuple[int, int]]:
    """Return the lowest and highest level of each band."""
    return [band.getextrema() for band in image.split()]  # pyright: ignore[reportReturnType]


def declared_profiles(image: Image.Image, data: bytes) -> list[bytes]:
    """Return ICC profiles of what the file says of its colours, the first to be tried first.

    None of them means sRGB, as on the web. `image` is the opened file and `data` its bytes.

    Raises: InvalidImageError if the colours are those of an HDR image.
    """
    if image.format == "PNG":
        return list(_png_profiles(image, data))
    profiles = list(_icc(image))
    if image.format in ("AVIF", "HEIF") and not profiles:
        profiles += _code_points(*_nclx(data))
    return [*profiles, *_exif_profiles(image)]


def _icc(image: Image.Image) -> Iterator[bytes]:
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        yield profile


def _png_profiles(image: Image.Image, data: bytes) -> Iterator[bytes]:
    """Yield the profiles of a PNG in the order of section 4.3 of its third edition."""
    points = _png_chunk(data, b"cICP")
    if points and len(points) == 4 and UNSPECIFIED not in points[:2]:
        yield from _code_points(*points[:2])
        if points[0] in H273_PRIMARIES and points[1] in H273_TRANSFERS:
            return
    yield from _icc(image)
    if "srgb" in image.info:
        return
    gamma, chromaticities = image.info.get("gamma"), image.info.get("chromaticity")
    if gamma is None and chromaticities is None:
        yield from _exif_profiles(image)
        return
    yield from _gamma_profile(gamma, chromaticities)


_USUAL_GAMMA, _GAMMA_TOLERANCE = 1 / 2.2, 0.05  # libpng: PNG_GAMMA_THRESHOLD_FIXED
_CHROMATICITY_TOLERANCE = 0.01


def _gamma_profile(gamma: float | None, values: Sequence[float] | None) -> Iterator[bytes]:
    """Yield the profile of PNG's `gAMA` and `cHRM`; none if they mean sRGB, or nothing."""
    chromaticities = SRGB
    if values is not None and len(values) == 8:
        chromaticities = Chromaticities(*zip(values[::2], values[1::2], strict=True))
    is_usual = gamma is None or abs(gamma / _USUAL_GAMMA - 1) < _GAMMA_TOLERANCE
    differences = [
        abs(a - b)
        for point, other in zip(chromaticities, SRGB, strict=True)
        for a, b in zip(point, other, strict=True)
    ]
    # 0.45455 is how encoders write sRGB for decoders that know no `sRGB` chunk.
    if is_usual and max(differences) < _CHROMATICITY_TOLERANCE:
        return
    if gamma is not None and not 0.1 <= gamma <= 10:
        return  # nonsense, such as 0, which some encoders have written
    curve = SRGB_CURVE if gamma is None else (0, (1 / gamma,))
    yield from _profile_of(chromaticities, curve)


def _exif_profiles(image: Image.Image) -> Iterator[bytes]:
    """Yield Adobe RGB if Exif says so, as cameras do that embed no profile.

    Source: DCF 2.0 (CIPA DC-009), section 5: `ColorSpace` is uncalibrated, and the
    interoperability index R03.
    """
    try:
        exif = image.getexif()
        color_space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return  # a malformed Exif block says nothing
    index = index.decode("ascii", "replace") if isinstance(index, bytes) else str(index)
    # 2 is no value of the standard; some cameras and tools write it all the same.
    if color_space == 2 or (color_space != 1 and index.startswith("R03")):
        yield from _profile_of(ADOBE_RGB, ADOBE_CURVE)


def _code_points(primaries: int, transfer: int) -> Iterator[bytes]:
    """Yield the profile of code points of H.273; none if they mean sRGB, or nothing.

    Raises: InvalidImageError if the transfer function is of an HDR image.
    """
    if name := HDR_TRANSFERS.get(transfer):
        raise InvalidImageError(
            f"an HDR image ({name}), whose brightness has no place in sRGB; save it as SDR"
        )
    primaries = 1 if primaries == UNSPECIFIED else primaries
    transfer = 13 if transfer == UNSPECIFIED else transfer
    known = primaries in H273_PRIMARIES and transfer in H273_TRANSFERS
    if known and (primaries, transfer) != (1, 13):
        yield from _profile_of(H273_PRIMARIES[primaries], H273_TRANSFERS[transfer])


def _profile_of(chromaticities: Chromaticities, curve: TransferCurve) -> Iterator[bytes]:
    if profile := icc_profile(chromaticities, curve):
        yield profile


def _png_chunk(data: bytes, wanted: bytes) -> bytes | None:
    """Return the content of the first chunk of that kind before the pixels, or None."""
    position = 8
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if kind == wanted:
            return data[position + 8 : position + 8 + size]
        if kind == b"IDAT":
            return None
        position += 12 + size
    return None


def _nclx(data: bytes) -> tuple[int, int]:
    """Return primaries and transfer of the first `nclx` box; both unspecified if there is none.

    Source: ISO/IEC 23008-12 (HEIF), 9.3.1 (`iprp`), and 14496-12, 12.1.5 (`colr`).
    """
    places = [(0, len(data))]
    for kind, header_bytes in ((b"meta", 4), (b"iprp", 0), (b"ipco", 0), (b"colr", 0)):
        places = [
            (start + header_bytes, end)
            for place in places
            for found, start, end in _boxes(data, *place)
            if found == kind
        ]
    for start, end in places:
        if data[start : start + 4] == b"nclx" and end - start >= 8:
            primaries, transfer = struct.unpack_from(">HH", data, start + 4)
            return primaries, transfer
    return UNSPECIFIED, UNSPECIFIED


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the content of each box, as ISO/IEC 14496-12, 4.2 has them."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header_bytes = 8
        if size == 1 and start + 16 <= end:
            size, header_bytes = struct.unpack_from(">Q", data, start + 8)[0], 16
        size = size or end - start
        if size < header_bytes or start + size > end:
            return
        yield kind, start + header_bytes, start + size
        start += size
