"""Colour spaces by primaries and transfer curve, and their ICC profiles."""

import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

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
