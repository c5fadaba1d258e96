"""Colour profiles: what an image file says of its colours, and their conversion to sRGB.

Files state their colours in four ways: by an ICC profile, by the code points of ITU-T H.273 (the
`cICP` chunk of PNG, the `nclx` box of AVIF and HEIF), by `gAMA` and `cHRM` (PNG), and as Adobe RGB
by Exif (cameras). Each statement becomes an ICC profile here, so that one library, LittleCMS,
converts all of them. Loads neither torch nor numpy.
"""

import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from PIL import ExifTags, Image, ImageChops, ImageCms

from dti_engine.errors import InvalidImageError

_Vector: TypeAlias = tuple[float, float, float]
_Matrix: TypeAlias = tuple[_Vector, _Vector, _Vector]


class Chromaticities(NamedTuple):
    """CIE x and y of white, red, green and blue, in the order of PNG's `cHRM`."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


TransferCurve: TypeAlias = tuple[int, tuple[float, ...]]
"""The type of a function and its parameters g, a, b, c, d, as in table 68 of ICC.1:2022."""

D65 = (0.3127, 0.3290)
SRGB = Chromaticities(D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_RGB = Chromaticities(D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_CCIR_601 = Chromaticities(D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
_DCI_P3 = Chromaticities((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))

SRGB_CURVE: TransferCurve = (3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
_VIDEO_CURVE: TransferCurve = (3, (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081))
ADOBE_CURVE: TransferCurve = (0, (563 / 256,))  # Adobe RGB (1998) Color Image Encoding, 4.3.1.2

UNSPECIFIED = 2  # in both tables of H.273
# ITU-T H.273 (07/2024), table 2. The others are of old films and televisions, or are no colours.
H273_PRIMARIES = {
    1: SRGB,
    5: SRGB._replace(red=(0.64, 0.33), green=(0.29, 0.60)),
    6: _CCIR_601,
    7: _CCIR_601,
    9: Chromaticities(D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: _DCI_P3,
    12: _DCI_P3._replace(white=D65),
}
# ITU-T H.273 (07/2024), table 3.
H273_TRANSFERS: dict[int, TransferCurve] = {
    1: _VIDEO_CURVE,
    4: (0, (2.2,)),
    5: (0, (2.8,)),
    6: _VIDEO_CURVE,
    8: (0, (1.0,)),
    13: SRGB_CURVE,
    14: _VIDEO_CURVE,
    15: _VIDEO_CURVE,
}
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # of the same table


_MAX_XYZ = 8  # primaries that are nearly on one line have larger ones; real ones stay below 2
_D50: _Vector = (0.9642, 1.0, 0.8249)  # ICC.1:2022, 7.2.16: white of the connection space
_BRADFORD: _Matrix = (
    (0.8951, 0.2664, -0.1614),
    (-0.7502, 1.7135, 0.0367),
    (0.0389, -0.0685, 1.0296),
)  # ICC.1:2022, annex E.3


def icc_profile(chromaticities: Chromaticities, curve: TransferCurve) -> bytes | None:
    """Return the ICC profile of a display with these primaries, or None if they span no colours."""
    try:
        columns = _adapted_primaries(chromaticities)
    except ZeroDivisionError:
        return None
    is_plausible = max(abs(value) for column in columns for value in column) < _MAX_XYZ
    return _icc_file(columns, curve) if is_plausible else None


def _adapted_primaries(chromaticities: Chromaticities) -> list[_Vector]:
    """Return XYZ of red, green and blue, adapted from their white to D50 by Bradford's matrix."""
    white, *primaries = (_xyz(*point) for point in chromaticities)
    columns = _transposed((primaries[0], primaries[1], primaries[2]))
    strengths = _apply(_inverse(columns), white)
    cone, cone_d50 = _apply(_BRADFORD, white), _apply(_BRADFORD, _D50)
    adapted = list[_Vector]()
    for primary, strength in zip(primaries, strengths, strict=True):
        response = _apply(_BRADFORD, primary)
        scaled = [r * strength * d / w for r, d, w in zip(response, cone_d50, cone, strict=True)]
        adapted.append(_apply(_inverse(_BRADFORD), (scaled[0], scaled[1], scaled[2])))
    return adapted


def _xyz(x: float, y: float) -> _Vector:
    return x / y, 1.0, (1 - x - y) / y


def _apply(matrix: _Matrix, vector: _Vector) -> _Vector:
    a, b, c = (sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix)
    return a, b, c


def _transposed(matrix: _Matrix) -> _Matrix:
    a, b, c = zip(*matrix, strict=True)
    return a, b, c


def _inverse(matrix: _Matrix) -> _Matrix:
    """Return the inverse by cross products. Raises: ZeroDivisionError if there is none."""
    a, b, c = _transposed(matrix)
    determinant = sum(x * y for x, y in zip(a, _cross(b, c), strict=True))
    p, q, r = (
        (u / determinant, v / determinant, w / determinant)
        for u, v, w in (_cross(b, c), _cross(c, a), _cross(a, b))
    )
    return p, q, r


def _cross(a: _Vector, b: _Vector) -> _Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _icc_file(columns: Sequence[_Vector], curve: TransferCurve) -> bytes:
    """Return a display profile of version 4.4 with these tags alone: ICC.1:2022, 8.3.3."""
    kind, parameters = curve
    para = struct.pack(">4s4xH2x", b"para", kind) + b"".join(map(_fixed, parameters))
    tags = [(b"wtpt", _xyz_tag(_D50))]
    tags += [(b"%cXYZ" % name, _xyz_tag(xyz)) for name, xyz in zip(b"rgb", columns, strict=True)]
    tags += [(b"%cTRC" % name, para) for name in b"rgb"]
    position, table, content = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, body in tags:
        table += struct.pack(">4sII", name, position + len(content), len(body))
        content += body + b"\0" * (-len(body) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s", position + len(content), 0x04400000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    header += bytes(28) + b"".join(map(_fixed, _D50))
    return header.ljust(128, b"\0") + table + content


def _xyz_tag(values: _Vector) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    """Return an s15Fixed16Number."""
    return struct.pack(">i", round(value * 65536))


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
