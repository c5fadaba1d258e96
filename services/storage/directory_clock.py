"""The clock of a directory store, which no change of the host's time moves.

Ages decide whether a lease has expired. The host's time of day may jump: an administrator corrects
it, a virtual machine resumes, a laptop reads a wrong hardware clock. So the store has a clock.
It is CLOCK_BOOTTIME, which only advances and which all processes of the host share, plus the
difference to the time of day when the store was first opened since the host has booted. That
difference is a file, `clocks/BOOT_ID`. Each file of the store has a time of this clock as its
modification time.

Where the system has no boot id (macOS), the time of day is the clock.
"""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from services.storage.directory_versions import make_folder, open_private

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NS_PER_S = 1_000_000_000


class DirectoryClock:
    """Nanoseconds that advance steadily, for all processes of a host alike."""

    def __init__(self, folder: Path) -> None:
        """Read the file of this boot, or make it.

        Raises:
            OSError: It cannot be read or made.
        """
        boot_id = _read_boot_id()
        self._offset_ns: int | None = None
        self._opened_ns = 0
        """When the store was first opened since the host has booted."""
        if boot_id:
            make_folder(folder)
            self._opened_ns, self._offset_ns = _read_or_make(folder / boot_id)

    def now_ns(self) -> int:
        """Return the clock's time, which is near the time of day unless that has jumped."""
        if self._offset_ns is None:
            return time.time_ns()
        return _boottime_ns() + self._offset_ns

    def age_s(self, modified_ns: int) -> float:
        """Return how long ago a file was written, by its modification time."""
        now_ns = self.now_ns()
        if self._offset_ns is not None and modified_ns > now_ns + _NS_PER_S:
            # This clock has not come so far. The file is of an earlier boot, or was copied into the
            # store, and the time of day was ahead then. No living worker has written it.
            return (now_ns - self._opened_ns) / _NS_PER_S
        return max(now_ns - modified_ns, 0) / _NS_PER_S


def _read_boot_id() -> str:
    """Return the id of this boot; empty if the system has none."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return ""
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        return ""
    return boot_id if boot_id.replace("-", "").isalnum() else ""


def _read_or_make(file: Path) -> tuple[int, int]:
    """Return the clock's time when the file was made, and its difference to CLOCK_BOOTTIME."""
    if not file.exists():
        temporary = file.with_name(secrets.token_hex(16))
        try:
            now_ns = time.time_ns()
            with open(temporary, "x", opener=open_private) as text:
                text.write(f"{now_ns} {now_ns - _boottime_ns()}\n")
            # Of several processes, one makes the file, and all others read it.
            with suppress(FileExistsError):
                os.link(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    opened, offset = file.read_text().split()
    return int(opened), int(offset)


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
