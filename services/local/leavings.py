"""What workers and engines have said: Ray keeps it in a folder that goes when the service stops."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_OF_ONE = 2_000_000
_OF_ALL = 50_000_000
"""Bytes that are kept: the end of each file, and of all files, with those of earlier runs, the
newest."""


def keep_logs(ray: Path, folder: Path) -> None:
    """Copy them from Ray's temporary folder to one that stays. What cannot be read is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in _said(ray):
        with suppress(OSError):
            _copy_end(log, folder / log.name)
    left = _OF_ALL
    for log in sorted(folder.iterdir(), key=lambda log: log.stat().st_mtime, reverse=True):
        left -= log.stat().st_size
        if left < 0:
            log.unlink()


def _said(ray: Path) -> Iterator[Path]:
    for session in ray.glob("session_*"):
        if not session.is_symlink():  # such as session_latest
            for pattern in ("worker-*.out", "worker-*.err", "serve/*.log"):
                yield from (log for log in session.glob(f"logs/{pattern}") if log.stat().st_size)


def _copy_end(log: Path, to: Path) -> None:
    with log.open("rb") as source, to.open("wb") as target:
        if (size := log.stat().st_size) > _OF_ONE:
            source.seek(size - _OF_ONE)
            source.readline()  # the rest of a line
        shutil.copyfileobj(source, target)
    shutil.copystat(log, to)
