"""Read the files of a bundle into memory, within limits, from a folder, zip or tar."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.archives import BundleSource, members
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

DESCRIPTION = "bundle.json"

_CHUNK_BYTES = 1 << 16
# Archives are told by their content, since a renamed one would be reported as a damaged image.
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


@dataclass(eq=False)
class BundleFiles:
    """The files of a bundle by name, and the errors; skipped files have empty content."""

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    errors: list[BundleFinding] = field(default_factory=list[BundleFinding])
    num_bytes: int = 0


def read_contents(
    source: BundleSource, limits: BundleLimits, *, only_description: bool = False
) -> BundleFiles:
    """Read all files of a bundle, ordered by name; hidden ones are ignored.

    An archive may hold one folder that holds everything, as zipping a folder produces. A member
    that cannot be used is an error under its name, and reading continues; where it cannot continue,
    the remaining members are missing.
    """
    try:
        found = members(source, limits)
    except InvalidBundleError as error:
        return BundleFiles(errors=[BundleFinding("", printable(str(error)))])
    contents = read_members(found, limits, only_description=only_description)
    is_folder = isinstance(source, Path) and source.is_dir()
    if not is_folder and not isinstance(source, Mapping):
        contents.files = _without_top_folder(contents.files)
    return contents


def read_members(
    members: Iterable[ArchiveMember], limits: BundleLimits, *, only_description: bool = False
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
            _add(member, contents, seen, limits, only_description)
    except (OSError, InvalidBundleError) as error:
        contents.errors.append(BundleFinding("", printable(str(error))))
    contents.files = dict(sorted(contents.files.items()))
    return contents


def _add(
    member: ArchiveMember,
    contents: BundleFiles,
    seen: dict[str, str],
    limits: BundleLimits,
    only_description: bool,
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
        return None
    is_description = name.rpartition("/")[2] == DESCRIPTION
    if only_description and not is_description:
        contents.files[name] = b""  # the name counts for `_without_top_folder`
        return None
    limit = limits.max_description_bytes if is_description else limits.image.max_bytes
    try:
        data = _read(member, limit, contents, limits)
    except OSError as error:
        return reject(printable(f"cannot be read ({error})"))
    if data is None:
        return reject(f"larger than {limit / 1e6:g} MB; make it smaller")
    # A tar has its magic within its first header, not at the beginning.
    if data.startswith(_ARCHIVE_MAGIC) or data[257:262] == b"ustar":
        return reject("an archive within; unpack it")
    contents.files[name] = data
    return None


def _read(
    member: ArchiveMember, limit: int, contents: BundleFiles, limits: BundleLimits
) -> bytes | None:
    """Return all bytes of a member, or None if there are more than `limit`, whatever it declares.

    Raises: InvalidBundleError if the bundle unpacks to too many bytes in total.
    """
    if member.declared_bytes > limit:
        return None
    data = bytearray()
    with member.open() as file:
        while chunk := file.read(_CHUNK_BYTES):
            data += chunk
            # Counted while reading: a decompression bomb must not get to the end of its data.
            contents.num_bytes += len(chunk)
            if contents.num_bytes > limits.max_unpacked_bytes:
                raise InvalidBundleError(
                    f"its files have more than {limits.max_unpacked_bytes / 1e6:g} MB; a bundle is "
                    "a few images of one subject, remove some"
                )
            if len(data) > limit:
                return None
    return bytes(data)


def _without_top_folder(files: dict[str, bytes]) -> dict[str, bytes]:
    # `zip -r rex.zip rex` stores every member below "rex/".
    tops = {name.partition("/")[0] if "/" in name else "" for name in files}
    if len(tops) != 1 or tops == {""}:
        return files
    return {name.partition("/")[2]: data for name, data in files.items()}
