"""Layouts of other trainers' data sets: where their images lie, and what their folders say.

kohya's scripts keep images in `img/10_sks dog/`: a number of repeats, the word of the subject and
its class. DreamBooth and diffusers keep them in `instance_images/`, and Hugging Face's
`imagefolder` in `train/`. How often images are repeated says nothing here: all are drawn alike.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dti_engine.images.file_formats import SUFFIXES, image_format

CLASSES_FILE = "prompts_and_classes.txt"
"""DreamBooth's list of subjects and their classes, beside the folders of the subjects."""

_REPEATS = re.compile(r"\d+_(?P<words>\S.*)")
_IMAGE_FOLDERS = frozenset(
    {
        "image",
        "images",
        "img",
        "instance",
        "instance_data",
        "instance_data_dir",
        "instance_dir",
        "instance_images",
        "train",
    }
)
_MASK_FOLDERS = frozenset({"conditioning", "mask", "masks"})
_MASK_ENDINGS = ("-masklabel.png", ".mask.png")  # of OneTrainer and of forks of kohya's scripts
_MAX_FOLDERS = 3  # such as train/img/10_dog


@dataclass(frozen=True)
class Layout:
    """The files of a data set as a bundle has them, and what its folders say of the subject."""

    files: Mapping[str, bytes]
    trigger: str | None  # the words that captions have for the subject
    class_word: str | None


def is_image_folder(name: str) -> bool:
    """Return whether a folder, by its name, holds the images of the folder around it."""
    return name.lower() in _IMAGE_FOLDERS or is_repeats_folder(name)


def is_repeats_folder(name: str) -> bool:
    """Return whether a folder is named as kohya's scripts demand, such as `10_sks dog`."""
    return _REPEATS.fullmatch(name) is not None


def repeats_words(name: str) -> tuple[str, str] | None:
    """Return (trigger, class word) of a folder of kohya's scripts; None if it is not one.

    `10_sks dog` is ("sks dog", "dog"), and `10_dog` is ("dog", "dog").
    """
    found = _REPEATS.fullmatch(name)
    if not found:
        return None
    trigger = " ".join(found["words"].replace("_", " ").split())
    _, _, class_word = trigger.partition(" ")
    return trigger, class_word or trigger


def arrange(files: Mapping[str, bytes]) -> Layout:
    """Move the images of a known folder up, with all that lies beside them there.

    It moves them only if no image lies above, and no other folder has images.
    """
    files, trigger, class_word = dict(files), None, None
    for _ in range(_MAX_FOLDERS):
        folders = _folders_of_images(files)
        if len(folders) != 1 or not is_image_folder(folder := folders.pop()):
            break
        if words := repeats_words(folder):
            trigger, class_word = words
        inner = f"{folder}/"
        moved = {
            name.removeprefix(inner): data for name, data in files.items() if name.startswith(inner)
        }
        files = {name: data for name, data in files.items() if not name.startswith(inner)} | moved
    return Layout(dict(sorted(files.items())), trigger, class_word)


def _folders_of_images(files: Mapping[str, bytes]) -> set[str]:
    """Return the outermost folders of all images but masks; `""` if some lie in none."""
    return {
        PurePosixPath(name).parts[0] if "/" in name else ""
        for name, data in files.items()
        if is_image(name, data) and not _is_in_mask_folder(name)
    }


def is_image(name: str, data: bytes) -> bool:
    """Return whether a file is an image, or claims to be one by its name."""
    return bool(image_format(data)) or PurePosixPath(name).suffix.lower() in SUFFIXES


def is_mask_name(name: str) -> bool:
    """Return whether a file, by its name or folder, is a mask of another trainer."""
    return name.endswith(_MASK_ENDINGS) or _is_in_mask_folder(name)


def _is_in_mask_folder(name: str) -> bool:
    return any(part.lower() in _MASK_FOLDERS for part in PurePosixPath(name).parts[:-1])


def masks_beside(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return image -> its mask, for masks that other trainers keep beside images.

    OneTrainer names the mask of `rex.jpg` `rex-masklabel.png`, and forks of kohya's scripts
    `rex.mask.png`; the scripts themselves want a folder of images of the same names, here `masks`,
    `mask` or `conditioning`.
    """
    images = {
        PurePosixPath(name).stem: name
        for name, data in files.items()
        if "/" not in name and not is_mask_name(name) and is_image(name, data)
    }
    masks = dict[str, str]()
    for name, data in files.items():
        if not image_format(data):
            continue
        stem = PurePosixPath(name).stem if _is_in_mask_folder(name) else None
        for ending in _MASK_ENDINGS:
            if name.endswith(ending):
                stem = PurePosixPath(name).name.removesuffix(ending)
        if stem in images:
            masks[images[stem]] = name
    return masks


def class_beside(folder: Path) -> str | None:
    """Return the class that DreamBooth's list names for a folder of images, if there is one."""
    try:
        text = (folder.resolve().parent / CLASSES_FILE).read_text("utf-8-sig", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, class_word = line.partition(",")
        if name.strip() == folder.resolve().name and class_word.strip():
            return class_word.strip()
    return None
