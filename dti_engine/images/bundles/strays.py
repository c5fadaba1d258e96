"""Files and folders that lie beside a subject's images and are passed over, told by content.

People keep images together with films, camera raw, caches of other trainers, and what commands of
this package wrote. None of it is learned from, and none of it is a reason to refuse the images.
"""

from pathlib import Path, PurePosixPath

from dti_engine.files import RUN_LOG, is_generated_page
from dti_engine.images.file_formats import SUFFIXES, image_format
from dti_engine.images.png import is_generated_png, is_plain_png

TEXT_SUFFIXES = frozenset({".txt", ".caption", ".json", ".jsonl", ".csv"})
"""Names of files that may hold captions or describe images."""

_ARCHIVE_SUFFIXES = frozenset(
    {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".cbz"}
)
# Told by content, since a renamed one would be reported as a damaged image. A tar has its magic
# within its first header, not at the beginning.
_ARCHIVE_MAGIC = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
)
_RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"}
)
# Images of the class, which DreamBooth and kohya's scripts train on beside those of the subject.
_CLASS_FOLDERS = frozenset(
    {
        "reg",
        "reg_images",
        "regularisation",
        "regularisation_images",
        "regularization",
        "regularization_images",
        "class_data",
        "class_data_dir",
        "class_dir",
        "class_images",
    }
)
# Of kohya's GUI and of trainers that sample while they train.
_OUTPUT_FOLDERS = frozenset({"log", "logs", "model", "models", "sample", "samples"})
RUN_FOLDERS = frozenset({"checkpoints", "earlier", "steps", "validation"})
"""Folders in the output of `dti train`."""


def is_archive_within(name: str, head: bytes) -> bool:
    """Return whether a file is an archive, which may hold images that its owner wants learned.

    Caches and models of other programs are zips or gzips too, under names of their own.
    """
    suffix = PurePosixPath(name).suffix.lower()
    is_packed = head.startswith(_ARCHIVE_MAGIC) or head[257:262] == b"ustar"
    return is_packed and (not suffix or suffix in _ARCHIVE_SUFFIXES | SUFFIXES)


def is_stray(name: str, head: bytes) -> bool:
    """Return whether a file is neither an image to learn from nor a text, by its first bytes.

    A file whose name or content claims to be an image is none of these: it is read or refused.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _RAW_SUFFIXES or image_format(head) == "camera raw":
        return True
    if is_generated_png(head):
        return True  # an image that a token generated
    return image_format(head) is None and suffix not in SUFFIXES | TEXT_SUFFIXES


def is_own_page(head: bytes) -> bool:
    """Return whether a file is a contact sheet or page of this package, which is left out."""
    return is_plain_png(head) or is_generated_page(head)


def is_class_folder(name: str) -> bool:
    """Return whether a folder, by its name, holds images of the class and not of the subject."""
    return name.lower() in _CLASS_FOLDERS


def is_side_folder(name: str) -> bool:
    """Return whether a folder beside a subject's images, by its name, holds none of them."""
    return is_class_folder(name) or name.lower() in _OUTPUT_FOLDERS


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder is the output of a run: it has a log, or tokens and no image."""
    names = [each.name.lower() for each in folder.iterdir()]
    if RUN_LOG in names:
        return True
    has_images = any(PurePosixPath(name).suffix in SUFFIXES for name in names)
    return not has_images and any(name.endswith(".safetensors") for name in names)


def is_of_run(name: str, run_folders: frozenset[str]) -> bool:
    """Return whether a member lies in the output of a run.

    run_folders: the folders that have a log, `""` for the bundle itself, where only the folders of
    a run belong to it.
    """
    folders = [str(each) for each in PurePosixPath(name).parents if str(each) != "."]
    if any(folder in run_folders for folder in folders):
        return True
    return "" in run_folders and (name == RUN_LOG or name.partition("/")[0] in RUN_FOLDERS)


def run_folders(names: list[str]) -> frozenset[str]:
    """Return the folders with the log of a run among these members."""
    return frozenset(
        name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == RUN_LOG
    )
