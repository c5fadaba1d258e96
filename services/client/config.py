"""The server and the API key: from options, the environment, or the file of `dti serve`."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from dti_engine.errors import OutputError
from services.errors import SettingsError

SERVER_VARIABLE, KEY_VARIABLE = "DTI_SERVER", "DTI_API_KEY"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A server's URL, without a slash at its end, and an API key."""

    server: str
    key: str = field(repr=False)


class _ConfigFile(BaseModel):
    """The contents of the file; later versions may add fields."""

    server: str
    key: str


def config_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the file that `dti serve` writes for commands of the same user.

    Raises:
        OutputError: This user has no home folder, as in a container with any user id.
    """
    configured = Path(environment.get("XDG_CONFIG_HOME", ""))
    # The XDG Base Directory Specification says to ignore relative paths.
    if configured.is_absolute():
        return configured / "dti" / "client.json"
    try:
        return Path.home() / ".config" / "dti" / "client.json"
    except RuntimeError as error:
        raise OutputError(
            "this user has no home folder: set HOME or XDG_CONFIG_HOME to one that it can write"
        ) from error


def read_config(environment: Mapping[str, str] = os.environ) -> ServerConfig | None:
    """Return the contents of the file, or None without one. Raises: SettingsError if unreadable."""
    try:
        path = config_file(environment)
    except OutputError:
        return None
    remedy = "start `dti serve` again, which rewrites it, or delete it"
    try:
        contents = _ConfigFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"cannot read {str(path)!r} ({error.strerror}): {remedy}") from error
    except ValidationError:
        # Pydantic's message would show the key.
        raise SettingsError(f"{str(path)!r} has no server and key in it: {remedy}") from None
    return ServerConfig(_check_url(contents.server), contents.key)


def write_config(config: ServerConfig, environment: Mapping[str, str] = os.environ) -> Path:
    """Write the file, readable by this user alone, and return its path. Raises: OutputError."""
    path = config_file(environment)
    contents = _ConfigFile(server=_check_url(config.server), key=config.key)
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            # Private from its creation on: after a later chmod, another user could have opened it
            # before.
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(contents.model_dump_json())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error
    return path


def find_server(
    server: str | None = None,
    key: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> ServerConfig:
    """Return server and key: each from the arguments, else the environment, else the file.

    Raises: SettingsError if one of the two is missing, or the server is not a URL.
    """
    # An empty value counts as missing.
    server = server or environment.get(SERVER_VARIABLE) or None
    key = key or environment.get(KEY_VARIABLE) or None
    stored = None if server and key else read_config(environment)
    if server is None:
        if stored is None:
            raise SettingsError(
                "which server? Run `dti serve` on this machine, or say where it is: --server URL, "
                f"or {SERVER_VARIABLE} in the environment"
            )
        server = stored.server
    server = _check_url(server)
    # A key belongs to the server that it was stored with; no other server may see it.
    if key is None and stored and stored.server == server:
        key = stored.key
    if key is None:
        raise SettingsError(
            f"no API key for {server}: set {KEY_VARIABLE} in the environment, or give --api-key; "
            "`dti keys create` makes one"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"the API key for {server} has characters that no key has: copy the whole key and no "
            "more"
        )
    return ServerConfig(server, key)


def _check_url(server: str) -> str:
    """Return the URL without a slash at its end. Raises: SettingsError if it is not one."""
    try:
        parts = urlsplit(server)
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is not a number
        is_url = False
    if not is_url or any(character in server for character in "?#@") or not server.isprintable():
        raise SettingsError(
            f"{server!r:.200} is not a server: give its URL, such as http://127.0.0.1:8000"
        )
    return server.rstrip("/")
