"""Settings of the store: its URL, and how patient an S3 client is.

A store is named by a URL: `s3://bucket/prefix`, `file:///folder` or a plain path, or `memory:`.
What S3 needs besides comes from the environment, one variable `DTI_S3_<FIELD>` for each field of
`S3Settings` that has a default; credentials come from boto3's own chain.
"""

import re
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.environment import explain, reject_unknown_variables, without_credentials
from services.errors import SettingsError

_FORMS = "s3://BUCKET/PREFIX, file:///FOLDER, a plain path, or memory:"
_PREFIX = "DTI_S3_"

NO_PRESIGNING = "none"
"""The value of `public_endpoint` with which clients reach objects through this service alone."""


class MemorySettings(BaseModel):
    """Objects in the memory of this process."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DirectorySettings(BaseModel):
    """Objects in a folder of this host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path


class S3Settings(BaseSettings):
    """Objects in a bucket. Arguments override variables `DTI_S3_...`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # A value may hold a secret, and errors are logged.
        hide_input_in_errors=True,
    )

    bucket: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{1,62}$")
    prefix: str = Field(
        max_length=200,
        pattern=r"^([^\x00-\x1f\x7f]+/)?$",
        description="text before every key: empty, or it ends with a slash",
    )
    endpoint: str | None = Field(default=None, description="URL of the server; none: AWS")
    public_endpoint: str | None = Field(
        default=None,
        description="URL of the server as clients outside of the cluster reach it, for presigned "
        "links and forms; none given: endpoint; the word none: clients get links to this service",
    )
    region: str | None = Field(
        default=None, description="region of the bucket; none: as boto3's own chain finds it"
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="where the bucket's name stands: in the path or in the host name",
    )
    checksums: Literal["when_supported", "when_required"] = Field(
        default="when_required",
        description="when requests have CRC headers, which many servers refuse",
    )
    max_attempts: int = Field(
        default=6, ge=1, le=20, description="attempts at one request, with backoff"
    )
    deadline_s: float = Field(
        default=60, gt=0, description="time of one call, after which no attempt begins"
    )
    connect_timeout_s: float = Field(
        default=5, gt=0, description="time for the server to accept a connection"
    )
    read_timeout_s: float = Field(
        default=20, gt=0, description="time between two parts of a response"
    )
    max_connections: int = Field(
        default=32, ge=1, le=1000, description="connections that are kept open"
    )

    @field_validator("endpoint")
    @classmethod
    def _is_web_address(cls, endpoint: str | None) -> str | None:
        # No user or password in it: the URL is shown in errors and logs.
        if endpoint is not None and not re.fullmatch(r"https?://[^/?#@\s]+/?", endpoint):
            raise ValueError("it must be http://HOST or https://HOST, with a port if need be")
        return endpoint

    @field_validator("public_endpoint")
    @classmethod
    def _is_web_address_or_none(cls, endpoint: str | None) -> str | None:
        return endpoint if endpoint == NO_PRESIGNING else cls._is_web_address(endpoint)

    def for_leases(self) -> "S3Settings":
        """Return the same store with short timeouts: a lease renewed late is lost anyway."""
        return self.model_copy(
            update={
                "max_attempts": min(self.max_attempts, 3),
                "deadline_s": min(self.deadline_s, 8.0),
                "connect_timeout_s": min(self.connect_timeout_s, 2.0),
                "read_timeout_s": min(self.read_timeout_s, 4.0),
                "max_connections": min(self.max_connections, 4),
            }
        )

    def with_defaults(self, **defaults: float) -> "S3Settings":
        """Return the same store with other defaults for what the operator has not set."""
        unset = {name: defaults[name] for name in defaults.keys() - self.model_fields_set}
        return self.model_copy(update=unset)


StoreSettings: TypeAlias = MemorySettings | DirectorySettings | S3Settings


def store_settings(url: str) -> StoreSettings:
    """Read a store's URL, and for S3 the environment.

    Raises: SettingsError, which says what was given, what is allowed and what to do.
    """
    scheme, colon, rest = url.partition(":")
    if not url.strip() or "\0" in url:
        raise SettingsError(f"{url!r} is not the URL of a store: give {_FORMS}")
    if colon and scheme == "memory":
        if rest:
            raise SettingsError(f"{url!r} has text after memory:, give memory: alone")
        return MemorySettings()
    if colon and scheme == "s3":
        return _s3(url)
    if colon and scheme == "file":
        return DirectorySettings(root=_folder(url))
    if re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]*:", url):
        raise SettingsError(
            f"{without_credentials(url)!r} begins with {scheme + colon!r}, which is no kind of "
            f"store: give {_FORMS}; a path that looks so is written with ./ before it"
        )
    return DirectorySettings(root=Path(url).expanduser())


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


def _s3(url: str) -> S3Settings:
    if not url.startswith("s3://") or set(url) & set("?#@"):
        raise SettingsError(
            f"{without_credentials(url)!r} is not s3://BUCKET/PREFIX: endpoint and all else go "
            f"into variables {_PREFIX}..., credentials where boto3 finds them"
        )
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise SettingsError(f'{url!r} has an empty part, "." or ".." in its prefix: leave it out')
    # Bucket and prefix are in the URL alone: two places could contradict each other.
    reject_unknown_variables(
        _PREFIX,
        (name for name, field in S3Settings.model_fields.items() if not field.is_required()),
    )
    try:
        return S3Settings(bucket=bucket, prefix=f"{prefix}/" if prefix else "")
    except ValidationError as error:
        wrong = next((e for e in error.errors() if e["loc"][0] in ("bucket", "prefix")), None)
        if wrong is None:
            raise SettingsError(explain(error, _PREFIX)) from error
        field, value = wrong["loc"][0], wrong["input"]
        raise SettingsError(
            f"{url!r}: the {field} {value!r} is not allowed: {wrong['msg']}"
        ) from error
