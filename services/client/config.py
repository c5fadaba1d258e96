"""Where the service is, and by which key it knows its caller: as is said, or else as `dti serve`
has noted it on this machine.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from dti_engine.errors import OutputError
from services.errors import SettingsError

SERVER, KEY = "DTI_SERVER", "DTI_API_KEY"
"""Environment variables."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A server's URL, without a slash at its end, and a key to it."""

    server: str
    key: str = field(repr=False)


class _Note(BaseModel):
    """What the file says; later versions may say more."""

    server: str
    key: str


def access_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where `dti serve` notes it, for whoever has the same home."""
    configured = environment.get("XDG_CONFIG_HOME", "")
    # Relative ones are to be ignored: XDG Base Directory Specification.
    home = Path(configured) if Path(configured).is_absolute() else Path.home() / ".config"
    return home / "dti" / "client.json"


def read_access(environment: Mapping[str, str] = os.environ) -> ServerConfig | None:
    """What was noted; None if nothing was. Raises: SettingsError if it cannot be read."""
    path = access_file(environment)
    mend = "start `dti serve` again, which writes it anew, or delete it"
    try:
        note = _Note.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"cannot read {str(path)!r} ({error.strerror}): {mend}") from error
    except ValidationError:
        # Not its own words, which would show what is there.
        raise SettingsError(f"{str(path)!r} has no server and key in it: {mend}") from None
    return ServerConfig(_checked(note.server), note.key)


def write_access(access: ServerConfig, environment: Mapping[str, str] = os.environ) -> Path:
    """Note it where `read_access` looks, and where nobody else can. Raises: OutputError."""
    path = access_file(environment)
    note = _Note(server=_checked(access.server), key=access.key)
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(note.model_dump_json())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error
    return path


def find_access(
    server: str | None = None,
    key: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> ServerConfig:
    """By what is given here, else by the environment, else by what was noted.

    Raises: SettingsError if one of the two is missing, or the server is no URL.
    """
    # What is empty is not said.
    server = server or environment.get(SERVER) or None
    key = key or environment.get(KEY) or None
    noted = None if server and key else read_access(environment)
    if server is None:
        if noted is None:
            raise SettingsError(
                "which server? Run `dti serve` on this machine, or say where it is: --server URL, "
                f"or {SERVER} in the environment"
            )
        server = noted.server
    server = _checked(server)
    # A key is for the server that it was noted with, and told to no other.
    if key is None and noted and noted.server == server:
        key = noted.key
    if key is None:
        raise SettingsError(
            f"no key to {server}: give it as {KEY} in the environment, or as --api-key; `dti keys "
            "create` makes one"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"the key to {server} has characters that no key has: copy it whole, and nothing else"
        )
    return ServerConfig(server, key)


def _checked(server: str) -> str:
    """The URL without a slash at its end. Raises: SettingsError."""
    try:
        parts = urlsplit(server)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of a port that is no number
        is_one = False
    if not is_one or any(character in server for character in "?#@") or not server.isprintable():
        raise SettingsError(
            f"{server!r:.200} is no server: give its URL, such as http://127.0.0.1:8000"
        )
    return server.rstrip("/")
