"""Tokens as files: one for each, whole or not there, and nothing lost that was there before."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.commands.stopping import set_aside
from dti_engine.files import write_whole

if TYPE_CHECKING:
    from services.client.client import Client

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def fetch(
    client: "Client", token: str, folder: Path, name: str, *, sha256: str | None = None
) -> Path:
    """The file of a token, named after its subject; another one that is there under this name is
    moved to DIR/earlier. `sha256` of the token, if it is known.

    Raises: ClientError; OutputError if it cannot be written.
    """
    stem = file_stem(name)
    path = folder / f"{stem}.safetensors"
    is_there = path.exists()
    if is_there:
        there = hashlib.sha256(path.read_bytes()).hexdigest()
        if there == (sha256 or client.token(token).sha256):
            return path
    data = client.token_file(token)
    if is_there:
        set_aside(folder, [stem])
    write_whole(path, data)
    return path


def file_stem(name: str) -> str:
    """The client's own id of a subject as a name of a file: itself, if every system takes it."""
    if _PLAIN.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
