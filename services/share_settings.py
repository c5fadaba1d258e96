"""How much there is, in one process of the API, of what tenants share, and of it for a request."""

from pydantic import BaseModel, ConfigDict, Field


class ShareSettings(BaseModel):
    """The capacities of what tenants share, each divided by a `services.shares.Shares`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_body_memory_bytes: int = Field(
        default=64 * 2**20,
        gt=0,
        description="bytes of bodies in memory; a tenant may have as many as it leaves free, so at "
        "least twice max_body_bytes",
    )
    max_requests: int = Field(
        default=1000,
        ge=1,
        description="requests in progress; a tenant may have as many as it leaves free",
    )
    num_request_threads: int = Field(
        default=64,
        ge=1,
        description="threads of requests; a tenant may have as many as it leaves free",
    )
    max_concurrent_uploads: int = Field(
        default=64,
        ge=1,
        description="uploads at a time; a tenant may have as many as it leaves free",
    )
    max_upload_spool_bytes: int = Field(
        default=2 * 2**30,
        gt=0,
        description="bytes of uploads in temporary files; a tenant may have as many as it leaves "
        "free, so at least twice the largest upload",
    )
    max_event_streams: int = Field(
        default=1000,
        ge=1,
        description="event streams at a time; a tenant may have as many as it leaves free",
    )
    max_streams_per_tenant: int = Field(
        default=100, ge=1, description="event streams of a tenant at a time"
    )
    max_image_requests: int = Field(
        default=512,
        ge=1,
        description="requests at engines at a time; a tenant may have as many as it leaves free",
    )
    unknown_keys_per_second: float = Field(
        default=1.0,
        gt=0,
        description="requests with an unknown key that an address may send, in the long run",
    )
    unknown_keys_burst: int = Field(
        default=20, ge=1, description="requests with an unknown key that may come at once"
    )
    max_body_bytes: int = Field(
        default=32 * 2**20, gt=0, description="largest body of a request, except for uploads"
    )
    max_manifest_bytes: int = Field(
        default=64 * 2**20, gt=0, description="largest manifest of uploads"
    )
    upload_timeout_s: float = Field(
        default=300, gt=0, description="time that receiving the body of a request may take"
    )
    max_stream_s: float = Field(
        default=3600,
        gt=0,
        description="time after which an event stream ends, and clients reconnect",
    )
