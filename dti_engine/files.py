"""Files that are whole or not there."""

import os
import secrets
from pathlib import Path

from dti_engine.errors import OutputError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, its folders made if need be. Others see the old one or the new one, no part.

    Raises: OutputError if it cannot be written; nothing is left behind then.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error
