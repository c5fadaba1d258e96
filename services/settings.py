"""What the service is told from outside: which store, how to speak to it, and how patient to be.

A store is named by a URL: `s3://bucket/prefix`, `file:///folder` or a plain path, or `memory:`.
What S3 needs besides comes from the environment, one variable `DTI_S3_<FIELD>` for each field of
`S3Settings` that has a default; credentials from boto3's own chain, never from here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.errors import SettingsError

FORMS = "s3://BUCKET/PREFIX, file:///FOLDER, a plain path, or memory:"
_VARIABLE = "DTI_S3_"


class _Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


class MemorySettings(_Settings):
    """Objects in the memory of this process."""


class DirectorySettings(_Settings):
    """Objects in a folder of this host."""

    root: Path


class LedgerSettings(_Settings):
    """How patient the ledger is. Times in seconds; the same for all processes of a service."""

    lease: float = Field(default=60, gt=0, description="unrenewed so long, a worker is dead")
    look: float = Field(default=1, gt=0, description="between two looks for work, if there is none")


class S3Settings(_Settings):
    """Objects in a bucket. Times in seconds."""

    bucket: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{1,62}$")
    prefix: str = Field(
        max_length=200,
        pattern=r"^([^\x00-\x1f\x7f]+/)?$",
        description="before every key; empty, or ends with a slash",
    )
    endpoint: str | None = Field(default=None, description="URL of the server; None: AWS")
    region: str | None = Field(default=None, description="None: as boto3's own chain finds it")
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="where the bucket stands: in the path or in the host name"
    )
    checksums: Literal["when_supported", "when_required"] = Field(
        default="when_required", description="CRC headers; many servers refuse them"
    )
    attempts: int = Field(default=6, ge=1, le=20, description="of one request, with backoff")
    deadline: float = Field(default=60, gt=0, description="of one call; then no attempt begins")
    connect_timeout: float = Field(default=5, gt=0)
    read_timeout: float = Field(default=20, gt=0, description="between two parts of an answer")
    connections: int = Field(default=32, ge=1, le=1000, description="kept open at a time")

    @field_validator("endpoint")
    @classmethod
    def _is_web_address(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not re.fullmatch(r"https?://[^/?#@\s]+/?", endpoint):
            raise ValueError("it must be http://HOST or https://HOST, with a port if need be")
        return endpoint

    def for_leases(self) -> "S3Settings":
        """The same store, given up on early: a lease that is written late is no lease."""
        return self.model_copy(
            update={
                "attempts": min(self.attempts, 3),
                "deadline": min(self.deadline, 8.0),
                "connect_timeout": min(self.connect_timeout, 2.0),
                "read_timeout": min(self.read_timeout, 4.0),
                "connections": min(self.connections, 4),
            }
        )


StoreSettings: TypeAlias = MemorySettings | DirectorySettings | S3Settings


def store_settings(url: str, environment: Mapping[str, str]) -> StoreSettings:
    """Read a store's URL, and for S3 the environment.

    Raises: SettingsError, which says what was given, what is allowed and what to do.
    """
    scheme, colon, rest = url.partition(":")
    if not url.strip() or "\0" in url:
        raise SettingsError(f"{url!r} is not the URL of a store: give {FORMS}")
    if colon and scheme == "memory":
        if rest:
            raise SettingsError(f"{url!r} says more than memory: knows; give memory: alone")
        return MemorySettings()
    if colon and scheme == "s3":
        return _s3(url, environment)
    if colon and scheme == "file":
        return DirectorySettings(root=_folder(url))
    if re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]*:", url):
        raise SettingsError(
            f"{_without_credentials(url)!r} begins with {scheme + colon!r}, which is no kind of "
            f"store: give {FORMS}; a path that looks so is written with ./ before it"
        )
    return DirectorySettings(root=Path(url).expanduser())


def _without_credentials(given: object) -> object:
    """For messages, which end up in logs: a URL without what stands before an @."""
    return re.sub(r"//.*@", "//...@", given) if isinstance(given, str) else given


def _folder(url: str) -> Path:
    place = url.removeprefix("file:")
    path = place.removeprefix("//localhost" if place.startswith("//l") else "//")
    if not place.startswith("//") or not path.strip("/") or not path.startswith("/"):
        raise SettingsError(
            f"{url!r} names no folder of this host: give file:///FOLDER, with three slashes, or a "
            "plain path"
        )
    if set(url) & set("?#"):
        raise SettingsError(f"{url!r} has a ? or #: write it as %3F or %23, or give a plain path")
    return Path(unquote(path))


def _s3(url: str, environment: Mapping[str, str]) -> S3Settings:
    if not url.startswith("s3://") or set(url) & set("?#@"):
        raise SettingsError(
            f"{_without_credentials(url)!r} is not s3://BUCKET/PREFIX: endpoint and all else go "
            f"into variables {_VARIABLE}..., credentials where boto3 finds them"
        )
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise SettingsError(f'{url!r} has an empty part, "." or ".." in its prefix: leave it out')
    known = {
        _VARIABLE + name.upper(): name
        for name, field in S3Settings.model_fields.items()
        if not field.is_required()
    }
    given = {name: value for name, value in environment.items() if name.startswith(_VARIABLE)}
    if unknown := sorted(given.keys() - known.keys()):
        raise SettingsError(
            f"no setting is called {', '.join(unknown)}: there are {', '.join(known)}"
        )
    values = {known[name]: value for name, value in given.items() if value}
    try:
        return S3Settings.model_validate(
            {"bucket": bucket, "prefix": f"{prefix}/" if prefix else "", **values}
        )
    except ValidationError as error:
        raise SettingsError(
            "; ".join(
                _refusal(url, str(item["loc"][0]), item["input"], item["msg"])
                for item in error.errors()
            )
        ) from error


def _refusal(url: str, field: str, given: object, reason: str) -> str:
    if field in ("bucket", "prefix"):
        return f"{url!r}: the {field} {given!r} is not allowed: {reason}"
    shown = _without_credentials(given)
    return f"{_VARIABLE}{field.upper()} is {shown!r}: {reason}; change or unset it"
