"""What the API is told from outside: how much it takes, and how patient it is.

One environment variable `DTI_API_<FIELD>` for each field of `ApiSettings`.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.errors import SettingsError

VARIABLE = "DTI_API_"


class ApiSettings(BaseModel):
    """Of one process. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    body_bytes: int = Field(default=32 * 2**20, gt=0, description="of a request, but for uploads")
    manifest_bytes: int = Field(default=64 * 2**20, gt=0, description="of an uploaded manifest")
    uploads_at_once: int = Field(default=8, ge=1, description="that this process passes on")
    upload_seconds: float = Field(default=300, gt=0, description="until an upload is here, or late")
    presigned_seconds: int = Field(default=3600, ge=1, description="that a form for uploads holds")
    private_webhooks: bool = Field(
        default=False, description="whether they may go to this network, and by http://"
    )
    poll: float = Field(default=1.0, gt=0, description="between two looks at what goes on")
    keepalive: float = Field(default=15.0, gt=0, description="of silence, before a comment is sent")
    stream_seconds: float = Field(default=3600, gt=0, description="until listeners come anew")
    streams: int = Field(default=100, ge=1, description="of a tenant's listeners at a time")
    counted: float = Field(default=5.0, ge=0, description="that a count of open items is good for")
    store_patience: float = Field(default=5.0, gt=0, description="until a store counts as silent")
    engines: str | None = Field(
        default=None,
        pattern=r"^https?://[^?#@\s]+$",
        description="URL before the names of models, of what generates; None: nothing does",
    )
    engine_patience: float = Field(default=5.0, gt=0, description="until no engine is there")
    generate_seconds: float = Field(
        default=300, gt=0, le=3600, description="that images may take, unless a request says"
    )
    link_seconds: int = Field(default=3600, ge=1, description="that a link to an image holds")
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^?#@\s]+$",
        description="of this service, before links to it; None: as a request has it",
    )


def api_settings(environment: Mapping[str, str]) -> ApiSettings:
    """Read the environment. Raises: SettingsError."""
    known = {VARIABLE + name.upper(): name for name in ApiSettings.model_fields}
    given = {name: value for name, value in environment.items() if name in known and value}
    try:
        return ApiSettings.model_validate({known[name]: value for name, value in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{VARIABLE}{str(first['loc'][0]).upper()} is {first['input']!r}: {first['msg']}; "
            "change or unset it"
        ) from error
