"""Whether a file system does what a directory store is built on: tried out, not looked up."""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from services.errors import StoreRefusedError
from services.storage.versions import sync_folder

_REMOTE = ("9p", "afs", "ceph", "cifs", "fuse.", "gfs2", "glusterfs", "lustre", "nfs", "smb")
"""Beginnings of kinds of file systems that several hosts can write to, or that pass for local."""

_MOUNTS = Path("/proc/self/mountinfo")

_CLOCK_TOLERANCE = 2.0
"""Seconds between this host's clock and the times of new files. A local one is milliseconds off."""


def check_filesystem(folder: Path, url: str) -> None:
    """Try out links, modes and syncing in `folder`, which is left as it was.

    Raises: StoreRefusedError, which names what is missing.
    """
    if kind := _remote(folder):
        raise StoreRefusedError(
            f"{url}: refused: it is on {kind}, where another host can see names late; a directory "
            "store is for one host: give a folder of a local disk, or an S3 bucket"
        )
    name = folder / secrets.token_hex(16)
    first, second = name.with_suffix(".1"), name.with_suffix(".2")
    try:
        if missing := _missing(first, second):
            raise StoreRefusedError(
                f"{url}: refused: its file system {missing}; give a folder of a local disk, or an "
                "S3 bucket"
            )
    finally:
        for path in (first, second):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _missing(first: Path, second: Path) -> str:
    """What the file system cannot do; empty if nothing is missing."""
    doing = "writes no files"
    try:
        first.write_bytes(b"probe")
        if abs(first.stat().st_mtime - time.time()) > _CLOCK_TOLERANCE:
            return "has another clock than this host"
        doing = "makes no hard links (link)"
        os.link(first, second)
        doing = "lets a link replace a file"
        try:
            os.link(first, second)
            return doing
        except FileExistsError:
            pass
        doing = "keeps no modes of files (chmod)"
        second.chmod(0o200)
        if first.stat().st_mode & 0o777 != 0o200:
            return doing
        second.unlink()
        doing = "makes no symbolic links (symlink)"
        second.symlink_to("deleted")
        doing = "does not put folders on disk (fsync)"
        sync_folder(first.parent)
    except OSError as error:
        return f"{doing}: {error.strerror}"
    return ""


def _remote(folder: Path) -> str:
    """Kind of the file system that `folder` is on, if it is one of several hosts; else empty."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:  # not Linux
        return ""
    kinds = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in lines}
    places = (str(place) for place in (folder.resolve(), *folder.resolve().parents))
    kind = next((kinds[place] for place in places if place in kinds), "")
    return kind if kind.startswith(_REMOTE) else ""
