import hashlib
import os
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageOps

from dti_engine.errors import InvalidImageError
from dti_engine.images.decode import ImageLimits, decode_image, decode_mask, load_images
from dti_engine.images.file_formats import DECODERS, image_format, reading_error


def noise(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data: bytes, **limits: Any) -> Image.Image:
    return decode_image("a.png", data, limits=ImageLimits(**limits)).image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has no pixels at all."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


# What is read from a folder


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "C.png", "a10.png", "a2.png", "Ähre 犬.png"):
        (tmp_path / name).write_bytes(encoded(noise()))
    names = [each.name for each in load_images(tmp_path)]
    assert names == ["C.png", "a10.png", "a2.png", "b.png", "Ähre 犬.png"]


def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path) -> None:
    formats = {"a.JPG": "JPEG", "b.Jpeg": "JPEG", "c.PNG": "PNG", "d.WebP": "WEBP"}
    for name, format in formats.items():
        (tmp_path / name).write_bytes(encoded(noise(), format))
    assert [each.name for each in load_images(tmp_path)] == list(formats)


def test_hidden_files_and_sidecars_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise()))
    for name in (".DS_Store", "._a.png", "a.txt", "metadata.JSON"):
        (tmp_path / name).write_text("not an image")
    (tmp_path / ".thumbnails").mkdir()
    assert [each.name for each in load_images(tmp_path)] == ["a.png"]


def test_an_image_carries_the_digest_of_its_file(tmp_path: Path) -> None:
    data = encoded(noise(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    assert load_images(tmp_path)[0].sha256 == hashlib.sha256(data).hexdigest()


def test_all_refused_files_are_listed_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(encoded(noise()))
    (tmp_path / "cut.jpg").write_bytes(encoded(noise(), "JPEG")[:-700])
    (tmp_path / "犬.jpg").write_text("hello")
    (tmp_path / "tiny.png").write_bytes(encoded(noise(31, 200)))
    (tmp_path / "photo.heic").write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InvalidImageError) as refusal:
        load_images(tmp_path)
    head, *lines = str(refusal.value).splitlines()
    assert head == f"6 of 7 files in {str(tmp_path)!r} rejected:"
    reasons = dict(line.strip().split(": ", 1) for line in lines)
    assert list(reasons) == [
        repr(name)
        for name in ("cut.jpg", "folder.png", "gone.png", "photo.heic", "tiny.png", "犬.jpg")
    ]
    assert "cut short" in reasons["'cut.jpg'"]
    assert "31 x 200 px; both sides must be at least 32 px" in reasons["'tiny.png'"]
    for name in ("photo.heic", "犬.jpg"):
        assert "its content is not JPEG, PNG, WebP, AVIF or HEIC" in reasons[repr(name)]
    for name in ("folder.png", "gone.png"):
        assert "not a file" in reasons[repr(name)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot hold such a name")
def test_a_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(encoded(noise()))
    with pytest.raises(InvalidImageError, match="not valid UTF-8") as refusal:
        load_images(tmp_path)
    str(refusal.value).encode()  # and can be printed


def test_a_folder_without_images_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("soon")
    with pytest.raises(InvalidImageError, match="no images in"):
        load_images(tmp_path)


def test_a_folder_that_is_missing_or_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise()))
    for folder in (tmp_path / "nowhere", tmp_path / "a.png"):
        with pytest.raises(InvalidImageError, match=r"cannot list .*: give a folder"):
            load_images(folder)


def test_the_limits_are_the_callers(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(64, 48)))
    for limits, reason in (
        (ImageLimits(min_side_px=49), "at least 49 px"),
        (ImageLimits(max_megapixels=0.003), r"more than 0\.003 megapixels"),
        (ImageLimits(max_bytes=1000), r"larger than 0\.001 MB"),
    ):
        with pytest.raises(InvalidImageError, match=reason):
            load_images(tmp_path, limits=limits)
    assert load_images(tmp_path, limits=ImageLimits(min_side_px=48))


# What a file may hold


def test_the_content_decides_and_not_the_name() -> None:
    assert decode_image("a.jpg", encoded(noise())).image.tobytes() == noise().tobytes()
    with pytest.raises(InvalidImageError, match="a GIF image; save it as JPEG"):
        decode_image("a.png", encoded(noise(), "GIF"))


def test_a_huge_image_is_rejected_by_its_header_alone() -> None:
    # Without a pixel in it, this file would be refused as damaged by whoever decodes it.
    with pytest.raises(InvalidImageError, match="9000 x 9000 px, more than 64 megapixels"):
        decoded(png_header(9000, 9000))


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_decompression_bomb_is_rejected(side: int) -> None:
    with pytest.raises(InvalidImageError, match="more than 64 megapixels"):
        decoded(png_header(side, side))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_file_cut_short_is_rejected(format: str, share: float) -> None:
    data = encoded(noise(), format)
    with pytest.raises(InvalidImageError, match="damaged"):
        decoded(data[: int(share * len(data))])


def test_damage_inside_a_file_is_rejected() -> None:
    data = bytearray(encoded(noise()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InvalidImageError, match="damaged"):
        decoded(bytes(data))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_is_rejected(format: str) -> None:
    data = encoded(noise(), format, save_all=True, append_images=[ImageOps.mirror(noise())])
    with pytest.raises(InvalidImageError, match="animated"):
        decoded(data)


def test_the_extra_image_in_a_phones_jpeg_is_ignored() -> None:
    alone = encoded(noise(), "JPEG")
    data = encoded(noise(), "MPO", save_all=True, append_images=[ImageOps.mirror(noise())])
    assert decoded(data).tobytes() == decoded(alone).tobytes()


def test_pillows_own_switches_stay_as_they_are() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    decoded(encoded(noise()))
    with pytest.raises(InvalidImageError):
        decoded(png_header(60_000, 60_000))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


# What the image looks like


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_turned_photo_is_put_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(noise(), format, exif=exif)
    upright = decode_image("a", data)
    with Image.open(BytesIO(data)) as stored:
        assert upright.image.tobytes() == ImageOps.exif_transpose(stored).convert("RGB").tobytes()
    assert upright.original_size == ((64, 48) if orientation < 5 else (48, 64))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_a_turned_avif_or_heic_is_put_upright_once(format: str, orientation: int) -> None:
    if format == "HEIF":
        pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 48), "white")
    image.paste("black", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.info["exif"] = exif.tobytes()
    upright = decoded(encoded(image, format, quality=100, exif=exif.tobytes()))
    image.getexif()[ExifTags.Base.Orientation] = orientation
    wanted = ImageOps.exif_transpose(image)
    assert upright.size == wanted.size
    difference = np.abs(np.asarray(upright).astype(int) - np.asarray(wanted))
    assert np.mean(difference) < 3


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WEBP"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIF"),
        (b"\0\0\0\x1cftypqt  \0\0\0\0qt  ", None),  # the film of a live photo
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera raw"),
        (b"GIF89a", "GIF"),
        (b"II*\0\x08", "TIFF or camera raw"),
        (b"version https://git-lfs", None),
        (b"", None),
    ],
)
def test_kinds_of_files_are_told_by_their_first_bytes(data: bytes, format: str | None) -> None:
    assert image_format(data) == format
    assert (reading_error(format) is None) == (format in DECODERS)


def test_a_heic_without_its_decoder_is_told_apart_from_damage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dti_engine.images.file_formats.DECODERS", ("JPEG", "PNG"))
    with pytest.raises(InvalidImageError, match=r"a HEIC image; install the extra 'heif'"):
        decoded(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def test_an_odd_exif_tag_does_not_keep_a_photo_from_being_put_upright() -> None:
    # A text where a number belongs: Pillow reads the tag, but cannot write it anew.
    orientation = struct.pack(">HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    width = struct.pack(">HHII", ExifTags.Base.ImageWidth, 2, 4, 0x61620000)
    tags = sorted([orientation, width])
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + b"".join(tags) + b"\0\0\0\0"
    assert decoded(encoded(noise(), "JPEG", exif=exif)).size == (48, 64)


def with_transparent_corner(mode: str) -> bytes:
    """48 x 48, opaque (200, 200, 200) but for a transparent black quarter at the top left."""
    image = Image.new("LA", (48, 48), (200, 255))
    image.paste((0, 0), (0, 0, 24, 24))
    if mode == "P":
        palette = Image.new("P", (48, 48), 1)
        palette.putpalette([0, 0, 0, 200, 200, 200])
        palette.paste(0, (0, 0, 24, 24))
        return encoded(palette, transparency=0)
    if mode in ("L", "RGB"):  # one colour is declared to be transparent
        return encoded(image.convert(mode), transparency=0 if mode == "L" else (0, 0, 0))
    return encoded(image.convert(mode))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = decoded(with_transparent_corner(mode))
    assert image.mode == "RGB"
    assert image.getpixel((5, 5)) == (255, 255, 255)
    assert image.getpixel((5, 40)) == image.getpixel((40, 5)) == (200, 200, 200)


def test_half_transparent_pixels_become_half_white() -> None:
    image = decoded(encoded(Image.new("RGBA", (48, 48), (0, 100, 200, 51))))
    assert image.getpixel((0, 0)) == (204, 224, 244)


def test_16_bit_grey_keeps_its_shades() -> None:
    pixels = np.full((48, 48), 0x8040, dtype=np.uint16)
    pixels[:24] = 0xFFFF
    image = decoded(encoded(Image.fromarray(pixels)))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((0, 47)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("CMYK", (255, 0, 0, 127), (0, 128, 128)),
        ("L", 90, (90, 90, 90)),
    ],
)
def test_every_colour_space_of_jpeg_becomes_rgb(mode: str, color: Any, expected: Any) -> None:
    image = decoded(encoded(Image.new(mode, (48, 48), color), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert np.abs(np.array(image.getpixel((20, 20))) - expected).max() <= 3


# Masks


def test_a_mask_is_greyscale_and_black_where_transparent() -> None:
    mask = Image.new("LA", (48, 48), (255, 255))
    mask.paste((255, 0), (0, 0, 24, 48))
    decoded_mask = decode_mask(encoded(mask))
    assert decoded_mask.mode == "L"
    assert [decoded_mask.getpixel(xy) for xy in ((5, 5), (40, 5))] == [0, 255]


def test_a_mask_is_checked_like_an_image() -> None:
    for data, reason in ((png_header(9000, 9000), "megapixels"), (b"hello", "not JPEG")):
        with pytest.raises(InvalidImageError, match=reason):
            decode_mask(data)
