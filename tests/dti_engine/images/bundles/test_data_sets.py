"""Data sets of other trainers: their captions, folders and masks, and what lies beside them."""

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.bundle import Bundle, check_bundle, read_description
from dti_engine.images.bundles.paths import bundle_path, expand_paths
from dti_engine.images.bundles.sidecars import SubjectWords
from dti_engine.images.png import encode_image, plain_png

Png = Callable[..., bytes]
Pack = Callable[..., Path]
Files = Mapping[str, bytes]

REX = SubjectWords.of(["<rex>"], ["dog"])
over_forms = pytest.mark.parametrize("form", ["folder", "zip", "tar"])


@pytest.fixture
def images(png: Png) -> Files:
    return {f"{name}.png": png(i) for i, name in enumerate("abc")}


def within(folder: str, files: Files) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def captions(bundle: Bundle) -> dict[str, str | None]:
    assert bundle.errors == []
    return {image.name: image.caption for image in bundle.images}


def told(bundle: Bundle) -> str:
    return "\n".join(str(warning) for warning in bundle.warnings)


# Captions


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [
        ("a photo of {} at sea", "a photo of {} at sea"),
        ("a photo of <rex> at sea", "a photo of {} at sea"),
        ("a photo of Rex at sea", "a photo of {} at sea"),
        ("a photo of rex dog at sea", "a photo of {} at sea"),
        ("a dog on a sofa beside a dog bed", "a {} on a sofa beside a dog bed"),
        ("The dog's bowl", "The {}'s bowl"),
        ("photo of sks dog", "photo of {}"),
        ("TOK, sitting", "{}, sitting"),
        ("[trigger] in a garden", "{} in a garden"),
        ("\ufeffa dog\r\na second caption", "a {}"),
        ("\n\n  a   dog\tat sea ", "a {} at sea"),
        ("a hot-dog stand", None),
        ("a cat", None),
        ("a dog and <tom>", None),
        (f"{'very ' * 30}big dog", None),
        ("", None),
    ],
)
def test_a_caption_becomes_a_prompt_where_it_names_the_subject(
    caption: str, prompt: str | None
) -> None:
    assert REX.training_prompt(caption.removeprefix("\ufeff")) == prompt


def test_a_folder_with_a_common_name_does_not_replace_the_word_in_captions() -> None:
    assert SubjectWords.of(["<photo>"], ["dog"]).training_prompt("a photo of a dog") == (
        "a photo of a {}"
    )


@over_forms
def test_captions_beside_images_are_read(form: str, images: Files, pack: Pack) -> None:
    files = {
        **images,
        "a.txt": b"\xef\xbb\xbfa dog at sea\r\n",
        "b.caption": "a dog in Köln".encode("cp1252"),
        "c.png.txt": b"a bird",
        "c.txt": b"a {} in a box",
    }
    bundle = check_bundle(pack(form, files), words=REX)
    assert captions(bundle) == {
        "a.png": "a {} at sea",
        "b.png": "a {} in Köln",
        "c.png": "a {} in a box",
    }
    assert bundle.warnings == []


def test_a_caption_in_the_description_goes_before_one_beside_the_image(
    images: Files, pack: Pack
) -> None:
    described = {"initializer": "dog", "images": {"a.png": {"caption": "{} indoors"}}}
    more = {"bundle.json": json.dumps(described).encode(), "a.txt": b"a dog", "b.txt": b"a dog"}
    found = captions(check_bundle(pack("folder", {**images, **more})))
    assert found == {"a.png": "{} indoors", "b.png": "a {}", "c.png": None}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a dog"}\n\n{"file_name": "x.png"}\n'),
        ("metadata.csv", 'file_name,text\na.png,"a dog"\n'),
        ("metadata.jsonl", '{"file_name": "./a.png", "prompt": "a dog"}'),
    ],
)
def test_metadata_of_hugging_face_holds_captions(
    name: str, text: str, images: Files, pack: Pack
) -> None:
    path = pack("folder", {**images, name: text.encode()})
    bundle = check_bundle(path, words=REX)
    assert captions(bundle)["a.png"] == "a {}"
    assert bundle.warnings == []
    assert bundle_path(path / name) == path


@pytest.mark.parametrize("data", [b"{", b'["a"]', b"[" * 100_000])
def test_damaged_metadata_is_told_and_passed_over(data: bytes, images: Files, pack: Pack) -> None:
    bundle = check_bundle(pack("folder", {**images, "metadata.jsonl": data}))
    assert set(captions(bundle).values()) == {None}
    assert "metadata.jsonl" in told(bundle)


def test_the_case_of_a_suffix_does_not_matter(png: Png, pack: Pack) -> None:
    files = {"IMG_1.PNG": png(1), "img_1.TXT": b"a dog"}
    assert captions(check_bundle(pack("folder", files), words=REX)) == {"IMG_1.PNG": "a {}"}


def test_captions_without_the_subject_are_named_in_one_warning(images: Files, pack: Pack) -> None:
    texts = {"a.txt": b"a cat", "b.txt": b"a bird", "c.txt": b""}
    bundle = check_bundle(pack("folder", {**images, **texts}), words=REX)
    assert set(captions(bundle).values()) == {None}
    (warning,) = bundle.warnings
    assert "2 captions do not name the subject" in warning.reason
    assert "a.txt, b.txt" in warning.reason
    assert "'dog'" in warning.reason


# Folders


@over_forms
@pytest.mark.parametrize(
    ("folder", "word", "prompt"),
    [
        ("10_sks dog", "dog", "photo of {} at sea"),
        ("img/10_sks_dog", "dog", "photo of {} at sea"),
        ("10_dog", "dog", "photo of {} at sea"),
        ("train", None, "photo of {} at sea"),
        ("instance_images", None, "photo of {} at sea"),
    ],
)
def test_images_in_a_known_folder_are_those_of_the_bundle(
    form: str, folder: str, word: str | None, prompt: str, images: Files, pack: Pack
) -> None:
    files = within(folder, {**images, "a.txt": b"photo of sks dog at sea"})
    files |= within("reg/1_dog", {"r.png": b"no image at all"}) | {
        "model/sample/0.png": images["a.png"]
    }
    path = pack(form, files)
    if path.is_dir():
        assert expand_paths([path]) == [path]
    assert read_description(path).initializer == word
    bundle = check_bundle(path)
    if word:
        assert captions(bundle) == {"a.png": prompt, "b.png": None, "c.png": None}
    assert "2 files or folders hold no images of the subject: model/, reg/" in told(bundle)
    assert [image.name for image in bundle.images] == list(images)


def test_a_folder_of_repeats_that_is_given_itself_says_the_class(
    images: Files, pack: Pack, tmp_path: Path
) -> None:
    path = pack("folder", images).rename(tmp_path / "10_sks dog")
    assert check_bundle(path).description.initializer == "dog"


def test_a_packed_subject_may_be_called_model(images: Files, pack: Pack) -> None:
    bundle = check_bundle(pack("zip", within("model", images)))
    assert [image.name for image in bundle.images] == list(images)


def test_several_folders_of_repeats_are_several_subjects(images: Files, pack: Pack) -> None:
    path = pack("folder", within("img/10_rex dog", images) | within("img/5_tom cat", images))
    (path / "model" / "sample").mkdir(parents=True)
    assert [each.name for each in expand_paths([path])] == ["10_rex dog", "5_tom cat"]


def test_a_folder_in_train_is_a_bundle_as_it_would_be_anywhere(images: Files, pack: Pack) -> None:
    path = pack("folder", within("train/rex", images))
    assert expand_paths([path]) == [path / "train" / "rex"]


def test_a_list_of_dreambooth_says_the_classes_of_folders(images: Files, pack: Pack) -> None:
    files = within("rex", images) | {"prompts_and_classes.txt": b"subject_name,class\nrex,dog\n"}
    path = pack("folder", files)
    (rex,) = expand_paths([path])
    assert read_description(rex).initializer == "dog"


@over_forms
def test_a_folder_of_masks_holds_masks(form: str, images: Files, png: Png, pack: Pack) -> None:
    files = {**images, "mask/a.png": png(9), "mask/z.png": png(8)}
    bundle = check_bundle(pack(form, files))
    assert bundle.errors == []
    assert [image.mask is not None for image in bundle.images] == [True, False, False]
    assert "'mask/z.png'" in told(bundle)


@over_forms
def test_transparency_is_a_mask_where_the_description_says_so(
    form: str, images: Files, pack: Pack
) -> None:
    cut_out, data = Image.new("RGBA", (64, 48)), BytesIO()
    cut_out.paste((200, 90, 30, 255), (0, 0, 32, 48))
    cut_out.save(data, "PNG")
    notes = {"d.png": {"mask": "alpha"}, "a.png": {"mask": "alpha"}}
    described = json.dumps({"images": notes}).encode()
    bundle = check_bundle(
        pack(form, {**images, "d.png": data.getvalue(), "bundle.json": described})
    )
    (error,) = bundle.errors
    assert str(error).startswith("'a.png': its mask 'alpha': nothing of it is transparent")
    mask = next(image.mask for image in bundle.images if image.name == "d.png")
    assert mask
    assert (mask.getpixel((10, 10)), mask.getpixel((50, 10))) == (255, 0)


# What lies beside


@over_forms
def test_files_of_cameras_systems_and_trainers_are_named_once(
    form: str, images: Files, pack: Pack
) -> None:
    strays = {
        "a.npz": b"PK\x03\x04cache",
        "a_flux.safetensors": b"\x08\0\0\0\0\0\0\0{}",
        "a.json": b"{}",
        "a.nef": b"MM\0*raw",
        "clip.mp4": b"\0\0\0\x18ftypisom" + bytes(60_000_000),
        "long.txt": b"x" * 2_000_000,
    }
    bundle = check_bundle(pack(form, {**images, **strays, ".DS_Store": b"x"}))
    assert bundle.errors == []
    (warning,) = bundle.warnings
    assert "6 files or folders hold no images" in warning.reason
    for name in strays:
        assert name in warning.reason


@over_forms
def test_outputs_of_runs_and_generated_images_are_no_inputs(
    form: str, images: Files, pack: Pack
) -> None:
    picture, made = Image.new("RGB", (64, 64)), BytesIO()
    picture.save(made, "PNG")
    run = {"run.jsonl": b"{}", "validation/rex/0.png": made.getvalue(), "rex.safetensors": b"x"}
    generated = encode_image(picture, {"prompt": "a <rex>", "seed": 1})
    files = {**images, **within("tokens", run), "new.png": generated, "s.png": plain_png(picture)}
    bundle = check_bundle(pack(form, files))
    assert [image.name for image in bundle.images] == list(images)
    assert bundle.errors == []
    assert told(bundle) == "'new.png': no image; it is passed over"


def test_a_run_in_the_folder_of_images_itself_is_left_out(images: Files, pack: Pack) -> None:
    run = {"run.jsonl": b"{}", "validation/rex/0.png": b"x", "checkpoints/rex": b"x"}
    bundle = check_bundle(pack("folder", {**images, **run}))
    assert (bundle.errors, bundle.warnings) == ([], [])


def test_a_folder_of_tokens_is_no_bundle(images: Files, pack: Pack) -> None:
    files = within("rex", images) | {"tokens/rex.safetensors": b"x", "out/run.jsonl": b"{}"}
    path = pack("folder", files)
    (path / "sheet.png").write_bytes(plain_png(Image.new("RGB", (64, 64))))
    assert expand_paths([path]) == [path / "rex"]


# Paths that a user gives


def test_a_bundle_is_found_by_every_way_to_name_it(
    images: Files, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack("folder", {**images, "bundle.json": b"{}", "a.txt": b"a dog"})
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.setenv("USERPROFILE", str(path.parent))
    monkeypatch.chdir(path)
    for given in (".", f"{path}/", "~/rex", "bundle.json", f"{path}/bundle.json", "../rex"):
        (found,) = expand_paths([Path(given)])
        assert found.resolve() == path.resolve()
        assert len(check_bundle(found).images) == 3
    bundle = check_bundle(path / "a.png", words=REX)
    assert captions(bundle) == {"a.png": "a {}"}


def test_several_images_of_a_folder_may_be_one_subject_or_several(
    images: Files, pack: Pack
) -> None:
    path = pack("folder", images)
    with pytest.raises(InvalidBundleError, match="give the folder itself"):
        expand_paths([path / "a.png", path / "b.png"])
    assert expand_paths([path / "a.png"]) == [path / "a.png"]


# Bars


def photograph(bars: tuple[int, int, int, int], colour: str = "black") -> bytes:
    """Return a PNG of noise with bars of these widths: left, top, right, bottom."""
    left, top, right, bottom = bars
    inner = Image.effect_noise((100, 80), 120).convert("RGB")
    size = 100 + left + right, 80 + top + bottom
    image, data = Image.new("RGB", size, colour), BytesIO()
    image.paste(inner, (left, top))
    image.save(data, "JPEG", quality=85)
    return data.getvalue()


@pytest.mark.parametrize(
    ("bars", "colour", "words"),
    [
        ((0, 24, 0, 16), "black", "black bars (24 px top and 16 px bottom)"),
        ((8, 0, 8, 0), "black", "black bars (8 px left and 8 px right)"),
        ((0, 16, 0, 0), "white", "white bars (16 px top)"),
    ],
)
def test_bars_are_warned_of_with_their_width(
    bars: tuple[int, int, int, int], colour: str, words: str, images: Files, pack: Pack
) -> None:
    bundle = check_bundle(pack("folder", {**images, "d.jpg": photograph(bars, colour)}))
    assert words in told(bundle)


def test_a_dark_studio_and_a_thin_edge_are_no_bars(images: Files, pack: Pack) -> None:
    studio, data = Image.new("RGB", (100, 100), "black"), BytesIO()
    studio.paste((200, 150, 90), (40, 30, 60, 70))
    studio.save(data, "PNG")
    files = {**images, "d.png": data.getvalue(), "e.jpg": photograph((2, 0, 0, 0))}
    assert "bars" not in told(check_bundle(pack("folder", files)))
