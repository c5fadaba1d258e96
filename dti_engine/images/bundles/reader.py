"""The files of a bundle, read into memory within limits, whatever it comes in."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles import folders, tars, zips
from dti_engine.images.bundles.members import (
    DAMAGE,
    ArchiveMember,
    BundleFinding,
    BundleLimits,
    collision_key,
    is_ignored,
    normalized,
    printable,
    refusal,
)

DESCRIPTION = "bundle.json"

_ZIPS, _TARS = (".zip",), (".tar", ".tar.gz", ".tgz")
_PIECE = 1 << 16
_ARCHIVES = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
)


@dataclass(eq=False)
class BundleFiles:
    """Files by name, and what was refused. Only names are kept of what was not wanted."""

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    refusals: list[BundleFinding] = field(default_factory=list[BundleFinding])
    num_bytes: int = 0


def is_archive(path: Path) -> bool:
    """Whether its name says that it is one that is read."""
    return path.name.lower().endswith((*_ZIPS, *_TARS))


def bare_name(path: Path) -> str:
    """Of a folder or archive, without what makes it an archive."""
    name = path.resolve().name
    for suffix in sorted((*_ZIPS, *_TARS), key=len, reverse=True):
        if name.lower().endswith(suffix) and not path.is_dir():
            return name[: -len(suffix)]
    return name


def read_contents(
    path: Path, limits: BundleLimits, *, only_description: bool = False
) -> BundleFiles:
    """All files of a bundle, in the order of their names; hidden ones are passed over.

    An archive may hold one folder that holds everything, as zipping a folder makes it. What cannot
    be taken is refused by name, and reading goes on; from where it cannot, the rest is missing.
    """
    contents, seen = BundleFiles(), dict[str, str]()
    try:
        for number, entry in enumerate(_entries(path, limits), start=1):
            if number > limits.max_entries:
                raise InvalidBundleError(
                    f"more than {limits.max_entries} entries; a bundle is one subject, pack each "
                    "by itself"
                )
            _take(entry, contents, seen, limits, only_description)
    except (*DAMAGE, InvalidBundleError) as error:
        contents.refusals.append(BundleFinding("", printable(str(error))))
    if not path.is_dir():
        contents.files = _without_top_folder(contents.files)
    contents.files = dict(sorted(contents.files.items()))
    return contents


def _entries(path: Path, limits: BundleLimits) -> Iterator[ArchiveMember]:
    if path.is_dir():
        return folders.entries(path, limits)
    if not path.is_file():
        raise InvalidBundleError("not there; give a folder, zip or tar of images")
    size, name = os.path.getsize(path), path.name.lower()
    if size > limits.max_archive_bytes:
        raise InvalidBundleError(
            f"larger than {limits.max_archive_bytes / 1e6:g} MB; pack fewer or smaller files"
        )
    if name.endswith(_ZIPS):
        return zips.entries(path, limits)
    if name.endswith(_TARS):
        return tars.entries(path, limits)
    allowed = ", ".join((*_ZIPS, *_TARS))
    raise InvalidBundleError(f"neither a folder nor one of {allowed}; pack the images so")


def _take(
    entry: ArchiveMember,
    contents: BundleFiles,
    seen: dict[str, str],
    limits: BundleLimits,
    only_description: bool,
) -> None:
    """Read an entry, or refuse it. Raises: InvalidBundleError if nothing more is to be read."""
    name, shown = normalized(entry.name), printable(entry.name)
    if reason := refusal(entry.name, limits):
        contents.refusals.append(BundleFinding(shown, reason))
        return
    if is_ignored(name):
        return
    if entry.obstacle:
        contents.refusals.append(BundleFinding(shown, entry.obstacle))
        return
    key = collision_key(name)
    if (other := seen.setdefault(key, name)) != name or (name in contents.files):
        contents.refusals.append(
            BundleFinding(shown, f"means the same file as {other!r} on some systems; rename one")
        )
        return
    if entry.is_folder:
        return
    is_description = name.rpartition("/")[2] == DESCRIPTION
    if only_description and not is_description:
        contents.files[name] = b""
        return
    most = limits.max_description_bytes if is_description else limits.image.max_bytes
    try:
        data = _read(entry, most, contents, limits)
    except (*DAMAGE, RuntimeError) as error:  # the latter: zipfile, of what it cannot decrypt
        contents.refusals.append(BundleFinding(shown, printable(f"cannot be read ({error})")))
        return
    if data is None:
        contents.refusals.append(
            BundleFinding(shown, f"larger than {most / 1e6:g} MB; make it smaller")
        )
    elif data.startswith(_ARCHIVES) or data[257:262] == b"ustar":
        contents.refusals.append(BundleFinding(shown, "an archive within; unpack it"))
    else:
        contents.files[name] = data


def _read(
    entry: ArchiveMember, most: int, contents: BundleFiles, limits: BundleLimits
) -> bytes | None:
    """All bytes, or None if they are more than `most`; no header is trusted with the number."""
    if entry.declared_bytes > most:
        return None
    data = bytearray()
    with entry.open() as file:
        while piece := file.read(_PIECE):
            data += piece
            contents.num_bytes += len(piece)
            if contents.num_bytes > limits.max_unpacked_bytes:
                raise InvalidBundleError(
                    f"its files have more than {limits.max_unpacked_bytes / 1e6:g} MB; a bundle is "
                    "a few images of one subject, take some away"
                )
            if len(data) > most:
                return None
    return bytes(data)


def _without_top_folder(files: dict[str, bytes]) -> dict[str, bytes]:
    tops = {name.partition("/")[0] if "/" in name else "" for name in files}
    if len(tops) != 1 or tops == {""}:
        return files
    return {name.partition("/")[2]: data for name, data in files.items()}
