"""Tokens and pictures as files: one for each, whole or not there, and nothing lost that was there
before.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.commands.stopping import set_aside
from dti_engine.files import write_whole
from services.client.answers import Item, Job

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
    return _fetch(
        folder,
        file_stem(name),
        ".safetensors",
        lambda: sha256 or client.token(token).sha256,
        lambda: client.token_file(token),
    )


def fetch_made(client: "Client", job: Job, item: Item, folder: Path) -> Path:
    """The file of what an item has made: its token, or its picture.

    Raises: ClientError; OutputError if it cannot be written.
    """
    if item.token:
        return fetch(client, item.token, folder, item.id)
    return _fetch(
        folder,
        file_stem(item.id),
        ".png",
        lambda: item.sha256 or "",
        lambda: client.picture(job.job, item.index),
    )


def _fetch(
    folder: Path,
    stem: str,
    suffix: str,
    digest: Callable[[], str],
    load: Callable[[], bytes],
) -> Path:
    """What has this digest already is not loaded again."""
    path = folder / f"{stem}{suffix}"
    is_there = path.exists()
    if is_there and hashlib.sha256(path.read_bytes()).hexdigest() == digest():
        return path
    data = load()
    if is_there:
        set_aside(folder, [stem], suffix)
    write_whole(path, data)
    return path


def file_stem(name: str) -> str:
    """The client's own id of a subject as a name of a file: itself, if every system takes it."""
    if _PLAIN.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
