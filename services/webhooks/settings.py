"""How webhooks are sent, and where to."""

from ipaddress import IPv4Network, IPv6Network

from pydantic import BaseModel, ConfigDict, Field


class WebhookSettings(BaseModel):
    """What an operator decides; times in seconds. A tenant has no say in any of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    allow_http: bool = Field(default=False, description="also send where anybody can listen")
    allow_private: bool = Field(
        default=False, description="also send to addresses that are not public: on one's own host"
    )
    refused: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="public addresses that are one's own network all the same"
    )
    timeout: float = Field(default=10, gt=0, le=20, description="of one delivery as a whole")
    give_up: float = Field(default=72 * 3600, gt=0, description="after the first attempt")
    threads: int = Field(default=16, ge=1, le=256, description="deliveries at a time")
    each: int = Field(default=4, ge=1, le=256, description="of them, for one tenant")
