"""Bundles: loading, errors and warnings."""

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.bundle import check_bundle, load_bundle, read_description
from dti_engine.images.bundles.members import BundleLimits
from dti_engine.images.decode import load_images

Png = Callable[..., bytes]
Pack = Callable[..., Path]

FORMS = ("folder", "zip", "tar", "tar.gz")
over_forms = pytest.mark.parametrize("form", FORMS)
DREAMBOOTH = Path(__file__).parents[5] / "shared" / "data" / "dreambooth"


def mask(width: int = 64, height: int = 48, share: float = 0.5) -> bytes:
    image = Image.new("L", (width, height))
    image.paste(255, (0, 0, int(share * width), height))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def described(**values: object) -> bytes:
    return json.dumps(values).encode()


def refusals(path: Path, limits: BundleLimits | None = None) -> dict[str, str]:
    found = check_bundle(path, limits=limits or BundleLimits()).errors
    return {finding.name: finding.reason for finding in found}


def warnings(path: Path, **options: int) -> list[tuple[str, str]]:
    return [(each.name, each.reason) for each in check_bundle(path, **options).warnings]


# What a good bundle becomes


@over_forms
def test_a_bundle_is_its_images_with_captions_and_masks(form: str, png: Png, pack: Pack) -> None:
    notes = {"b.png": {"caption": "a photo of {}", "mask": "masks/b.png"}}
    words = {"subject": "rex", "placeholder": "<r>", "initializer": "dog", "kind": "person"}
    words["class_noun"] = "puppy"
    files = {
        "b.png": png(1),
        "a.jpg": png(2, format="JPEG"),
        "c.webp": png(3, format="WEBP"),
        "masks/b.png": mask(),
        "bundle.json": described(
            **words, tags=["pets", "2026"], images=notes, training={"seed": 7, "lr": 0.05}
        ),
    }
    path = pack(form, files)
    bundle = load_bundle(path)
    assert [each.name for each in bundle.images] == ["a.jpg", "b.png", "c.webp"]
    assert [each.caption for each in bundle.images] == [None, "a photo of {}", None]
    assert [each.mask is not None for each in bundle.images] == [False, True, False]
    assert bundle.description.model_dump(exclude={"images", "tags", "training"}) == words
    assert bundle.description.training.seed == 7
    assert bundle.description.training.changes() == {"lr": 0.05}
    assert bundle.description.tags == ("pets", "2026")
    assert read_description(path) == bundle.description
    assert bundle.warnings == []


def test_images_equal_those_of_load_images(png: Png, pack: Pack) -> None:
    path = pack("folder", {f"{name}.png": png(i) for i, name in enumerate("bCa犬")})
    for actual, plain in zip(load_bundle(path).images, load_images(path), strict=True):
        assert (actual.name, actual.sha256, actual.original_size) == (
            plain.name,
            plain.sha256,
            plain.original_size,
        )
        assert actual.image.tobytes() == plain.image.tobytes()


@over_forms
def test_hidden_and_system_files_are_ignored(form: str, png: Png, pack: Pack) -> None:
    files = {f"{i}.png": png(i) for i in range(3)}
    litter = ("__MACOSX/._0.png", ".DS_Store", ".git/config", "Thumbs.db")
    bundle = load_bundle(pack(form, files | dict.fromkeys(litter, b"litter")))
    assert [each.name for each in bundle.images] == list(files)


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("top", ["rex", "./rex", "."])
def test_an_archive_may_hold_one_folder_that_holds_everything(
    form: str, top: str, png: Png, pack: Pack
) -> None:
    files = {"0.png": png(0), "m/0.png": mask()}
    files["bundle.json"] = described(initializer="dog", images={"0.png": {"mask": "m/0.png"}})
    path = pack(form, {f"{top}/{name}": data for name, data in files.items()})
    (subject_image,) = load_bundle(path).images
    assert subject_image.name == "0.png"
    assert subject_image.mask
    assert read_description(path).initializer == "dog"


def test_a_name_may_be_written_with_composed_or_with_separate_accents(png: Png, pack: Pack) -> None:
    notes = {"\u00e4.png": {"caption": "a {}"}}
    files = {"a\u0308.png": png(), "bundle.json": described(images=notes)}
    (subject_image,) = load_bundle(pack("zip", files)).images
    assert (subject_image.name, subject_image.caption) == ("\u00e4.png", "a {}")


@over_forms
@pytest.mark.parametrize("ending", ["-masklabel.png", ".mask.png"])
def test_masks_of_other_trainers_are_masks(form: str, ending: str, png: Png, pack: Pack) -> None:
    files = {"a.jpg": png(0, format="JPEG"), f"a{ending}": mask(), "b.png": png(1)}
    images = load_bundle(pack(form, files)).images
    assert [(each.name, each.mask is not None) for each in images] == [
        ("a.jpg", True),
        ("b.png", False),
    ]


def test_a_description_may_begin_with_a_byte_order_mark(png: Png, pack: Pack) -> None:
    files = {"a.png": png(), "bundle.json": b"\xef\xbb\xbf" + described(initializer="dog")}
    path = pack("folder", files)
    assert load_bundle(path).description.initializer == "dog"
    assert read_description(path).initializer == "dog"


# What is refused


def test_all_errors_are_listed_at_once(png: Png, pack: Pack) -> None:
    notes = {
        "gone.png": {},
        "a.png": {"caption": "a dog"},
        "b.png": {"mask": "gone-mask.png"},
        "c.png": {"mask": "small-mask.png"},
        "d.png": {"mask": "black-mask.png"},
        "e.png": {"caption": "a {} and <tom>", "colour": "red"},
    }
    files = {f"{name}.png": png(i) for i, name in enumerate("abcde")} | {
        "small-mask.png": mask(32, 48),
        "black-mask.png": mask(share=0),
        "same.png": png(0),
        "tiny.png": png(9, 31, 200),
        "cut.jpg": png(9, format="JPEG")[:300],
        "hello.jpg": b"hello",
        "photo.heic": b"",
        "still.gif": png(9, format="GIF"),
        "deeper/f.png": png(10),
        "bundle.json": described(images=notes, kind="dog"),
    }
    path = pack("zip", files)
    expected = {
        "bundle.json": "kind should be 'object', 'style' or 'person', got 'dog'",
        "a.png": "bundle.json: caption must have {} where the placeholder goes, got 'a dog'",
        "e.png": "must not name <tom>",
        "same.png": "the same file as 'a.png'",
        "tiny.png": "31 x 200 px; both sides must be at least 32 px",
        "cut.jpg": "cut short",
        "hello.jpg": "its content is not JPEG",
        "photo.heic": "its content is not JPEG",
        "still.gif": "a GIF image; save it as JPEG",
        "deeper/f.png": "in a nested folder",
    }
    found = refusals(path)
    for name, reason in expected.items():
        assert reason in found[name]
    assert "colour is unknown" in found["e.png"]
    with pytest.raises(InvalidBundleError) as error:
        load_bundle(path)
    for name in expected:
        assert f"\n  {name!r}: " in str(error.value)


def test_masks_and_images_that_do_not_fit_together_are_rejected(png: Png, pack: Pack) -> None:
    notes = {
        "gone.png": {},
        "b.png": {"mask": "gone-mask.png"},
        "c.png": {"mask": "small-mask.png"},
        "d.png": {"mask": "black-mask.png"},
        "e.png": {"mask": "no-mask.png"},
        "f.png": {"mask": "f.png"},
    }
    files = {f"{name}.png": png(i) for i, name in enumerate("bcdef")} | {
        "small-mask.png": mask(32, 48),
        "black-mask.png": mask(share=0),
        "no-mask.png": b"hello",
        "bundle.json": described(images=notes),
    }
    found = refusals(pack("tar", files))
    expected = {
        "gone.png": "bundle.json names this image, but it does not exist",
        "b.png": "its mask 'gone-mask.png' does not exist",
        "c.png": "its mask 'small-mask.png' has 32 x 48 px, the image has 64 x 48",
        "d.png": "its mask 'black-mask.png' is black",
        "e.png": "its mask 'no-mask.png': its content is not JPEG",
        "f.png": "it does not exist (it is named as a mask)",
    }
    assert found.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in found[name]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "is not JSON"),
        (b'{"tags": "\xff"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"subject": "../rex"}', "subject must be 1 to 63 characters of a-z"),
        (b'{"placeholder": "rex"}', "placeholder must be <name>"),
        (b'{"initializer": ""}', "initializer String should have at least 1 character"),
        (b'{"initializer": "a\\u001b[2J"}', "initializer"),
        (b'{"training": {"lr": 2}}', "training.lr should be less than or equal to 1"),
        (b'{"training": {"batch_size": 2}}', "training.batch_size is unknown"),
        (b'{"tag": []}', "tag is unknown; known are subject, placeholder"),
        (b'{"images": ["a.png"]}', "images should be a valid"),
        (b'{"images": {"a.png": "a {}"}}', "should be a valid dictionary"),
    ],
)
def test_a_description_that_says_something_else_is_rejected(
    data: bytes, reason: str, png: Png, pack: Pack
) -> None:
    found = refusals(pack("folder", {"a.png": png(), "bundle.json": data}))
    assert reason in " ".join(found.values())


@over_forms
def test_a_bundle_without_images_is_rejected(form: str, pack: Pack) -> None:
    path = pack(form, {"bundle.json": b"{}"})
    with pytest.raises(InvalidBundleError, match="no images; put JPEG"):
        load_bundle(path)


@over_forms
def test_the_limits_are_the_callers(form: str, png: Png, pack: Pack) -> None:
    path = pack(form, {f"{i}.png": png(i) for i in range(4)})
    size = len(png(0))
    for limits, reason in (
        (BundleLimits(max_images=3), "4 images; allowed are 3"),
        (BundleLimits(max_entries=3), "more than 3 entries"),
        (BundleLimits(max_unpacked_bytes=2 * size), "more than"),
        (BundleLimits(max_decoded_megapixels=0.01), "more than 0.01 megapixels"),
    ):
        assert reason in " ".join(refusals(path, limits).values())


# What is warned of


@over_forms
def test_files_that_are_no_images_are_named_and_passed_over(
    form: str, png: Png, pack: Pack
) -> None:
    strays = {"README.md": b"Rex", "live.mov": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "notes/a": b""}
    files = {f"{i}.png": png(i) for i in range(3)}
    path = pack(form, files | strays)
    assert [each.name for each in load_bundle(path).images] == list(files)
    names = ", ".join(sorted(strays))
    told = f"3 files or folders hold no images of the subject: {names}; passed over"
    assert warnings(path) == [("", told)]


@over_forms
def test_images_are_told_by_their_content(form: str, png: Png, pack: Pack) -> None:
    files = {
        "a.jfif": png(0, format="JPEG"),
        "b": png(1, format="JPEG"),
        "c.png_large": png(2),
        "d.jpg": png(3, format="WEBP"),
        "e.avif": png(4, format="AVIF"),
    }
    assert [each.name for each in load_bundle(pack(form, files)).images] == list(files)


def test_few_small_long_and_similar_images_are_warned_of_by_name(png: Png, pack: Pack) -> None:
    files = {"a.png": png(0), "b.jpg": png(0, 80, 60, format="JPEG", quality=60)}
    path = pack("folder", files | {"c.png": png(1, 640, 48)})
    assert warnings(path, resolution=60) == [
        ("a.png", "64 x 48 px, will be enlarged to the 60 of training"),
        ("b.jpg", "nearly identical to 'a.png'"),
        ("c.png", "640 x 48 px, will be enlarged to the 60 of training"),
        ("c.png", "640 x 48 px: each square crop of it shows a small part"),
    ]
    os.remove(path / "c.png")
    assert warnings(path)[0] == ("", "2 of the usual 3 to 6 images; give more if you can")


@pytest.mark.skipif(not DREAMBOOTH.is_dir(), reason="the photographs are not in ../shared")
def test_real_photographs_are_neither_rejected_nor_taken_for_copies() -> None:
    folders = [each for each in DREAMBOOTH.iterdir() if each.is_dir()]
    bundles = [load_bundle(folder, resolution=512) for folder in folders]
    assert sum(len(bundle.images) for bundle in bundles) == 41
    told = [str(finding) for bundle in bundles for finding in bundle.warnings]
    assert len(told) == 3
    assert all("has black bars (128 px" in each for each in told)
