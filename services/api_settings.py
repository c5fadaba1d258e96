"""Settings of the API: what tenants share in one process, and the HTTP server."""

from ipaddress import ip_network

from pydantic import BaseModel, ConfigDict, Field, field_validator


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
    max_image_deliveries: int = Field(
        default=16,
        ge=2,
        description="images at a time that are read from engines and sent to clients; a tenant may "
        "have as many as it leaves free, and its other requests wait",
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
        default=8 * 2**20,
        gt=0,
        description="largest body of a job; each takes up to 20 times as much memory",
    )
    max_manifest_bytes: int = Field(
        default=16 * 2**20,
        gt=0,
        description="largest uploaded manifest of a job; each takes up to 10 times as much memory",
    )
    upload_timeout_s: float = Field(
        default=300, gt=0, description="time that receiving the body of a request may take"
    )
    max_stream_s: float = Field(
        default=3600,
        gt=0,
        description="time after which an event stream ends, and clients reconnect",
    )


class ServerSettings(BaseModel):
    """Where the API listens, how long it keeps connections, and which proxies it believes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="port to listen on; 0: any free port"
    )
    # Proxies keep idle connections for 60 s. If the API closed them first, it could close one at
    # the moment at which the proxy sends a request on it, which the client would get as a 502.
    connection_idle_timeout_s: int = Field(
        default=75,
        ge=1,
        description="time after which a connection that waits for its next request is closed",
    )
    request_head_timeout_s: float = Field(
        default=20,
        gt=0,
        description="time for the request line and the headers of a request; for the first "
        "request, it starts with the connection",
    )
    response_stall_timeout_s: float = Field(
        default=20,
        gt=0,
        description="time in which a client has to take 64 KiB of a response, or all that is left",
    )
    max_connections: int = Field(
        default=2000,
        ge=2,
        description="connections at a time; an address may have as many as it leaves free",
    )
    max_connections_per_address: int = Field(
        default=200,
        ge=1,
        description="connections of an address at a time, unless it is a trusted proxy",
    )
    trusted_proxies: str = Field(
        default="127.0.0.1",
        description="addresses and networks, separated by commas, whose X-Forwarded-Proto, -For "
        "and -Host are believed; *: any",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, trusted: str) -> str:
        networks = [name.strip() for name in trusted.split(",") if name.strip()]
        if networks == ["*"]:
            return "*"
        if "*" in networks:
            raise ValueError("* stands for any address: give it alone, or leave it out")
        for network in networks:
            ip_network(network)
        return trusted
