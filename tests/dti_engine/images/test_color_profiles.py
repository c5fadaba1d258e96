"""What files state of their colours, against an independent calculation of sRGB in floats."""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from dti_engine.errors import InvalidImageError
from dti_engine.images.color_profiles import (
    ADOBE_RGB,
    H273_PRIMARIES,
    SRGB,
    SRGB_CURVE,
    declared_profiles,
    icc_profile,
)
from dti_engine.images.decode import decode_image, decode_mask

COLOURS = ((230, 60, 40), (60, 200, 80), (30, 60, 200), (200, 160, 130), (120, 120, 120), (9, 7, 8))
P3, REC_2020 = H273_PRIMARIES[12], H273_PRIMARIES[9]
Chromaticities = Sequence[tuple[float, float]]
Curve = Callable[[np.ndarray], np.ndarray]


def srgb_curve(levels: np.ndarray) -> np.ndarray:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def power(exponent: float) -> Curve:
    return lambda levels: levels**exponent


def to_xyz(chromaticities: Chromaticities) -> np.ndarray:
    """Return the matrix of linear RGB to XYZ, whose white is that of the chromaticities."""
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in chromaticities)
    columns = np.stack(primaries, axis=1)
    return columns * np.linalg.solve(columns, white)


def expected(color: Sequence[int], chromaticities: Chromaticities, curve: Curve) -> list[int]:
    """Return a colour in sRGB; all white points here are that of sRGB."""
    linear = to_xyz(chromaticities) @ curve(np.array(color[:3]) / 255)
    linear = np.clip(np.linalg.solve(to_xyz(SRGB), linear), 0, 1)
    levels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return [round(float(level) * 255) for level in levels]


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    lossless: Mapping[str, Mapping[str, Any]] = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "HEIF": {"quality": 100, "chroma": 444},
    }
    buffer = BytesIO()
    image.save(buffer, format, **(dict(lossless.get(format, {})) | options))
    return buffer.getvalue()


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Insert chunks behind the header of a PNG."""
    body = b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return png[:33] + body + png[33:]


def gama(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def chrm(chromaticities: Chromaticities) -> tuple[bytes, bytes]:
    values = [round(value * 100_000) for point in chromaticities for value in point]
    return b"cHRM", struct.pack(">8I", *values)


def cicp(primaries: int, transfer: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes([primaries, transfer, 0, 1])


def adobe_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.ColorSpace: 0xFFFF, ExifTags.IFD.Interop: {1: "R03"}}
    )
    return exif


def pixel(data: bytes) -> Sequence[int]:
    found = decode_image("a", data).image.getpixel((24, 24))
    assert isinstance(found, tuple)
    return [int(level) for level in found]


def assert_close(data: bytes, wanted: Sequence[int], tolerance: int = 2) -> None:
    found = pixel(data)
    assert np.abs(np.array(found) - wanted).max() <= tolerance, (found, wanted)


def profile(chromaticities: Any, gamma: float | None = None) -> bytes:
    found = icc_profile(chromaticities, SRGB_CURVE if gamma is None else (0, (gamma,)))
    assert found
    return found


# The table: each statement, in each format that has it


ICC_SPACES = {
    "Display P3": (P3, None),
    "Adobe RGB": (ADOBE_RGB, 563 / 256),
    "Rec. 2020, gamma 2.4": (REC_2020, 2.4),
}


@pytest.mark.parametrize("space", ICC_SPACES)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("color", COLOURS)
def test_an_icc_profile_is_obeyed(space: str, format: str, color: tuple[int, int, int]) -> None:
    if format == "HEIF":
        pytest.importorskip("pillow_heif")
    chromaticities, gamma = ICC_SPACES[space]
    image = Image.new("RGB", (48, 48), color)
    data = encoded(image, format, icc_profile=profile(chromaticities, gamma))
    wanted = expected(color, chromaticities, srgb_curve if gamma is None else power(gamma))
    assert_close(data, wanted, 2 if format in ("PNG", "WEBP") else 5)


PNG_STATEMENTS: Mapping[str, tuple[list[tuple[bytes, bytes]], Chromaticities, Curve]] = {
    "cICP, Display P3": ([cicp(12, 13)], P3, srgb_curve),
    "cICP, Rec. 2020 at gamma 2.2": ([cicp(9, 4)], REC_2020, power(2.2)),
    "cICP, linear": ([cicp(1, 8)], SRGB, power(1.0)),
    "cICP, sRGB": ([cicp(1, 13)], SRGB, srgb_curve),
    "cICP over all else": ([cicp(12, 13), (b"sRGB", b"\0"), gama(1.0)], P3, srgb_curve),
    "cICP without code points": ([cicp(2, 2), gama(1.0)], SRGB, power(1.0)),
    "gAMA, linear": ([gama(1.0)], SRGB, power(1.0)),
    "gAMA of old Macs": ([gama(1 / 1.8)], SRGB, power(1.8)),
    "gAMA of sRGB": ([gama(0.45455)], SRGB, srgb_curve),
    "gAMA, nonsense": ([gama(0)], SRGB, srgb_curve),
    "gAMA and cHRM": ([gama(1 / 2.2), chrm(ADOBE_RGB)], ADOBE_RGB, power(2.2)),
    "gAMA and cHRM of sRGB": ([gama(0.45455), chrm(SRGB)], SRGB, srgb_curve),
    "cHRM alone": ([chrm(P3)], P3, srgb_curve),
    "cHRM, nonsense": ([chrm([(0.3, 0.3)] * 4)], SRGB, srgb_curve),
    "cHRM of zeros": ([chrm([(0, 0)] * 4)], SRGB, srgb_curve),
    "sRGB over gAMA": ([(b"sRGB", b"\0"), gama(1.0)], SRGB, srgb_curve),
}


@pytest.mark.parametrize("statement", PNG_STATEMENTS)
@pytest.mark.parametrize("color", COLOURS)
def test_the_chunks_of_a_png_are_obeyed(statement: str, color: tuple[int, int, int]) -> None:
    chunks, chromaticities, curve = PNG_STATEMENTS[statement]
    data = with_chunks(encoded(Image.new("RGB", (48, 48), color)), *chunks)
    assert_close(data, expected(color, chromaticities, curve))


def test_an_icc_profile_goes_before_gamma_and_behind_code_points() -> None:
    color = (60, 200, 80)
    data = encoded(Image.new("RGB", (48, 48), color), icc_profile=profile(P3))
    p3, rec_2020 = (expected(color, each, srgb_curve) for each in (P3, REC_2020))
    assert_close(with_chunks(data, gama(1.0)), p3)
    assert_close(with_chunks(data, cicp(9, 13)), rec_2020)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_adobe_rgb_by_exif_is_obeyed(format: str) -> None:
    color = (60, 200, 80)
    data = encoded(Image.new("RGB", (48, 48), color), format, exif=adobe_exif())
    assert_close(data, expected(color, ADOBE_RGB, power(563 / 256)), 4)


def test_code_points_of_avif_are_obeyed() -> None:
    color = (60, 200, 80)
    data = encoded(Image.new("RGB", (48, 48), color), "AVIF")
    assert data.count(b"nclx\0\1\0\r") == 1
    data = data.replace(b"nclx\0\1\0\r", b"nclx\0\x0c\0\r")
    assert_close(data, expected(color, P3, srgb_curve), 5)


def test_code_points_of_heic_are_obeyed() -> None:
    pytest.importorskip("pillow_heif")
    color = (60, 200, 80)
    options = {"save_nclx_profile": True, "color_primaries": 12, "transfer_characteristics": 13}
    data = encoded(Image.new("RGB", (48, 48), color), "HEIF", **options)
    assert_close(data, expected(color, P3, srgb_curve), 5)


@pytest.mark.parametrize("transfer", [16, 18])
def test_an_hdr_image_is_rejected(transfer: int) -> None:
    data = with_chunks(encoded(Image.new("RGB", (48, 48))), cicp(9, transfer))
    with pytest.raises(InvalidImageError, match=r"an HDR image \(.*\), .*; save it as SDR"):
        decode_image("a", data)


# Each mode of an image, with a profile


def in_mode(mode: str) -> tuple[Image.Image, Sequence[int], bool]:
    """Return an image, its colour in the middle, and whether its left quarter is transparent."""
    grey, color = (120,) * 3, (60, 200, 80)
    image = Image.new("RGBA", (48, 48), (*(grey if mode in ("L", "LA") else color), 255))
    image.paste((1, 2, 3, 0), (0, 0, 12, 48))
    match mode:
        case "1":
            return Image.new("1", (48, 48), 1), (255,) * 3, False
        case "I;16":
            return Image.fromarray(np.full((48, 48), 120 << 8, np.uint16)), grey, False
        case "L":
            return image.convert("L"), grey, False
        case "LA":
            return image.convert("LA"), grey, True
        case "RGB":
            return image.convert("RGB"), color, False
        case "P":
            return image.convert("RGB").quantize(4), color, False
        case "P with alpha":
            return image.quantize(4), color, True
        case _:
            return image, color, True


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "RGB", "RGBA", "P", "P with alpha"])
def test_a_profile_is_obeyed_in_every_mode_and_transparency_becomes_white(mode: str) -> None:
    image, color, is_transparent = in_mode(mode)
    data = encoded(image, icc_profile=profile(ADOBE_RGB, 1.0))
    decoded = decode_image("a", data).image
    assert decoded.mode == "RGB"
    assert_close(data, expected(color, ADOBE_RGB, power(1.0)))
    if is_transparent:
        assert decoded.getpixel((5, 24)) == (255, 255, 255)


def test_half_transparent_colours_are_mixed_with_white_in_srgb() -> None:
    color = (60, 200, 80)
    data = encoded(Image.new("RGBA", (48, 48), (*color, 51)), icc_profile=profile(P3))
    wanted = [round(0.2 * level + 0.8 * 255) for level in expected(color, P3, srgb_curve)]
    assert_close(data, wanted)


def grey_profile(gamma: float) -> bytes:
    """Return an ICC profile for grey: the one for RGB under another colour space, with `kTRC`."""
    data = bytearray(profile(SRGB, gamma))
    data[16:20] = b"GRAY"
    return bytes(data).replace(b"rTRC", b"kTRC", 1)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile_is_obeyed(mode: str) -> None:
    image, color, _ = in_mode(mode)
    assert_close(encoded(image, icc_profile=grey_profile(1.0)), expected(color, SRGB, power(1.0)))


def cmyk_profile() -> bytes:
    """Return an ICC profile of an odd printer: grey by K, whatever C, M and Y are."""
    corners = [(255 * (1 - (n & 1)), 128, 128) for n in range(16)]  # 8-bit Lab; K varies fastest
    matrix = struct.pack(">9i", *(65536 * (n in (0, 4, 8)) for n in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix
    lut += bytes(range(256)) * 4 + bytes(value for each in corners for value in each)
    lut += bytes(range(256)) * 3
    header = struct.pack(
        ">I4xI4s4s4s12x4s", 144 + len(lut), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp"
    )
    header = (header + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut


def test_a_cmyk_profile_is_obeyed_with_adobes_inverted_values() -> None:
    image = Image.new("CMYK", (48, 48), (10, 200, 30, 51))
    data = encoded(image, "JPEG", icc_profile=cmyk_profile())
    assert b"Adobe" in data
    luminance = ((80 + 16) / 116) ** 3  # CIE 1976: a fifth of black ink leaves a lightness of 80
    assert_close(data, [round(255 * (1.055 * luminance ** (1 / 2.4) - 0.055))] * 3)
    assert pixel(encoded(image, "JPEG"))[1] < 60  # without a profile, magenta ink takes green away


# What states nothing new


@pytest.mark.parametrize(
    "statement",
    [
        b"junk",
        b"",
        profile(P3)[:200],
        grey_profile(1.0),
        cmyk_profile(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        profile(SRGB),
    ],
    ids=["junk", "empty", "cut", "of grey", "of CMYK", "sRGB of LittleCMS", "sRGB of ours"],
)
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_a_profile_that_is_useless_or_srgb_leaves_every_bit(format: str, statement: bytes) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    data = encoded(Image.fromarray(pixels), format, icc_profile=statement)
    assert np.array_equal(np.asarray(decode_image("a", data).image), pixels)


def test_a_file_that_states_nothing_declares_no_profile() -> None:
    for format in ("PNG", "JPEG", "WEBP", "AVIF"):
        data = encoded(Image.new("RGB", (48, 48)), format)
        with Image.open(BytesIO(data)) as image:
            assert declared_profiles(image, data) == []


def test_a_mask_is_no_colour_and_ignores_profiles() -> None:
    data = with_chunks(encoded(Image.new("L", (48, 48), 120)), gama(1.0))
    assert decode_mask(data).getpixel((5, 5)) == 120
    assert pixel(data) != [120] * 3


@pytest.mark.parametrize("depth", [1, 2, 4, 16])
def test_the_transparent_grey_of_a_png_is_found_at_every_depth(depth: int) -> None:
    """Level 1 of so many bits is transparent in the left half; the right half is white."""
    size, white = 32, 2**depth - 1
    bits = "".join(f"{level:0{depth}b}" for level in [1] * (size // 2) + [white] * (size // 2))
    if depth == 1:
        bits = "0" * (size // 2) + "1" * (size // 2)
    row = b"\0" + int(bits, 2).to_bytes(size * depth // 8, "big")
    key = 0 if depth == 1 else 1
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", size, size, depth, 0, 0, 0, 0)),
            (b"tRNS", struct.pack(">H", key)),
            (b"IDAT", zlib.compress(row * size)),
            (b"IEND", b""),
        )
    )
    mask = decode_mask(data)  # transparent is black there, and white in an image
    assert [mask.getpixel(xy) for xy in ((3, 3), (29, 3))] == [0, 255]
    image = decode_image("a", data).image
    assert [image.getpixel(xy) for xy in ((3, 3), (29, 3))] == [(255,) * 3, (255,) * 3]
