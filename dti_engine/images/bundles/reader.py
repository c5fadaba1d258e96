"""Read the files of a bundle into memory, within limits, from a folder, zip or tar."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dti_engine.errors import InvalidBundleError, InvalidImageError
from dti_engine.images.bundles.archives import BundleSource, members
from dti_engine.images.bundles.layouts import is_image_folder
from dti_engine.images.bundles.members import (
    ArchiveMember,
    BundleFinding,
    BundleLimits,
    collision_key,
    is_ignored,
    name_error,
    normalized,
    printable,
)
from dti_engine.images.bundles.strays import (
    TEXT_SUFFIXES,
    is_archive_within,
    is_of_run,
    is_own_page,
    is_side_folder,
    is_stray,
    run_folders,
)
from dti_engine.images.file_formats import SUFFIXES

DESCRIPTION = "bundle.json"

_CHUNK_BYTES = 1 << 16
_HEAD_BYTES = 1 << 12  # enough to tell the kind of a file


@dataclass(eq=False)
class BundleFiles:
    """The files of a bundle by name, the strays beside them, and the errors."""

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    strays: list[str] = field(default_factory=list[str])
    folders: list[str] = field(default_factory=list[str])  # each with a `/` at its end
    errors: list[BundleFinding] = field(default_factory=list[BundleFinding])
    num_bytes: int = 0


def read_contents(
    source: BundleSource, limits: BundleLimits, *, only_texts: bool = False
) -> BundleFiles:
    """Read all files of a bundle, ordered by name; hidden ones are ignored.

    An archive may hold one folder that holds everything, as zipping a folder produces. A member
    that cannot be used is an error under its name, and reading continues; where it cannot continue,
    the remaining members are missing. What runs of `dti train` wrote is left out.

    only_texts: read of all files that are no texts the beginning alone.
    """
    try:
        found = members(source, limits)
    except InvalidBundleError as error:
        return BundleFiles(errors=[BundleFinding("", printable(str(error)))])
    contents = read_members(found, limits, only_texts=only_texts)
    is_folder = isinstance(source, Path) and source.is_dir()
    if not is_folder and not isinstance(source, Mapping):
        _remove_top_folder(contents)
    # Not before the top folder is removed: a subject may be called model.
    _leave_out_side_folders(contents)
    _leave_out_runs(contents)
    return contents


def read_members(
    members: Iterable[ArchiveMember], limits: BundleLimits, *, only_texts: bool = False
) -> BundleFiles:
    """Read all members as `read_contents` does, under their names in the archive."""
    contents, seen = BundleFiles(), dict[str, str]()
    try:
        for number, member in enumerate(members, start=1):
            if number > limits.max_entries:
                raise InvalidBundleError(
                    f"more than {limits.max_entries} entries; a bundle is one subject, pack each "
                    "by itself"
                )
            _add(member, contents, seen, limits, only_texts)
    except (OSError, InvalidBundleError) as error:
        contents.errors.append(BundleFinding("", printable(str(error))))
    contents.files = dict(sorted(contents.files.items()))
    return contents


def _add(
    member: ArchiveMember,
    contents: BundleFiles,
    seen: dict[str, str],
    limits: BundleLimits,
    only_texts: bool,
) -> None:
    """Read a member or reject it. Raises: InvalidBundleError if reading must end here."""
    name, shown = normalized(member.name), printable(member.name)

    def reject(reason: str) -> None:
        contents.errors.append(BundleFinding(shown, reason))

    # The name comes first: even an ignored member must not have a dangerous one.
    if reason := name_error(member.name, limits):
        return reject(reason)
    if is_ignored(name):
        return None
    if member.rejection:
        return reject(member.rejection)
    # On some systems the two are one file, whose content would depend on the order of writing: one
    # bundle would be two subjects.
    other = seen.setdefault(collision_key(name), name)
    if other != name or name in contents.files:
        return reject(f"means the same file as {other!r} on some systems; rename one")
    if member.is_folder:
        contents.folders.append(f"{name}/")
        return None
    try:
        data = _read(member, name, contents, limits, only_texts)
    except OSError as error:
        return reject(printable(f"cannot be read ({error})"))
    except InvalidImageError as error:
        return reject(str(error))
    if data is not None:
        contents.files[name] = data
    return None


def _leave_out_side_folders(contents: BundleFiles) -> None:
    """Name folders of other images as strays, in place of all that they hold."""
    names = [*contents.files, *contents.strays, *contents.folders]
    found = {folder for name in names if (folder := _side_folder(name))}
    contents.files = {name: data for name, data in contents.files.items() if not _side_folder(name)}
    contents.strays = [name for name in contents.strays if not _side_folder(name)]
    contents.strays += sorted(found)


def _side_folder(name: str) -> str | None:
    """Return the outermost folder of other images that a member lies in, if there is one."""
    folders = name.split("/")[:-1]
    for depth, folder in enumerate(folders, start=1):
        if is_side_folder(folder):
            return "/".join(folders[:depth]) + "/"
    return None


def _leave_out_runs(contents: BundleFiles) -> None:
    """Remove what runs of `dti train` wrote."""
    runs = run_folders([*contents.files, *contents.strays])
    contents.files = {
        name: data for name, data in contents.files.items() if not is_of_run(name, runs)
    }
    contents.strays = [name for name in contents.strays if not is_of_run(name, runs)]


def _read(
    member: ArchiveMember,
    name: str,
    contents: BundleFiles,
    limits: BundleLimits,
    only_texts: bool,
) -> bytes | None:
    """Return the bytes of a member, or None if it is passed over; strays are noted.

    Raises: InvalidImageError if the member is refused; InvalidBundleError if the bundle unpacks to
        too many bytes in total; OSError if it cannot be read.
    """
    data = bytearray()
    is_text = PurePosixPath(name).suffix.lower() in TEXT_SUFFIXES
    limit = limits.max_description_bytes if is_text else limits.image.max_bytes
    too_large = f"larger than {limit / 1e6:g} MB; make it smaller"
    # A film may be larger, which is passed over, but not what is named as an image.
    if member.declared_bytes > limit and PurePosixPath(name).suffix.lower() in SUFFIXES:
        raise InvalidImageError(too_large)
    with member.open() as file:
        # Not what the member declares: a decompression bomb must not get to the end of its data.
        while chunk := file.read(_CHUNK_BYTES if data else _HEAD_BYTES):
            if not data:
                if is_archive_within(name, chunk):
                    raise InvalidImageError("an archive within; unpack it")
                if is_own_page(chunk[:_HEAD_BYTES]):
                    return None
                if is_stray(name, chunk[:_HEAD_BYTES]):
                    contents.strays.append(name)
                    return None
                if only_texts and not is_text:
                    return chunk[:_HEAD_BYTES]
            data += chunk
            contents.num_bytes += len(chunk)
            if contents.num_bytes > limits.max_unpacked_bytes:
                raise InvalidBundleError(
                    f"its files have more than {limits.max_unpacked_bytes / 1e6:g} MB; a bundle is "
                    "a few images of one subject, remove some"
                )
            if len(data) > limit:
                if is_text and name.rpartition("/")[2] != DESCRIPTION:
                    contents.strays.append(name)
                    return None  # no caption is so long
                raise InvalidImageError(too_large)
    if not data and is_stray(name, b""):
        contents.strays.append(name)
        return None
    return bytes(data)


def _remove_top_folder(contents: BundleFiles) -> None:
    """Remove the folder that holds everything, as `zip -r rex.zip rex` makes it."""
    tops = {name.partition("/")[0] if "/" in name else "" for name in contents.files}
    if len(tops) != 1 or tops == {""} or is_image_folder(top := tops.pop()):
        return
    contents.files = {name.partition("/")[2]: data for name, data in contents.files.items()}
    contents.strays = [name.removeprefix(f"{top}/") for name in contents.strays]
    contents.folders = [name.removeprefix(f"{top}/") for name in contents.folders]
