"""Where webhooks are sent: URLs that tenants give, so not to be trusted.

Which addresses a webhook may go to: those that anyone on the internet could reach as well, so
that nobody reaches by us what stands behind our walls.

How webhooks are sent, and where to.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

import httpx
from pydantic import BaseModel, ConfigDict, Field

from services.errors import UnsafeUrlError

Resolve = Callable[[str, int], list[str]]
"""The addresses of a host at a port, as text."""

_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_REFUSED = (
    IPv4Network("192.0.0.0/24"),  # kept for protocols, some of which answer anywhere
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv6Network("2002::/16"),  # 6to4: an IPv4 address inside, and who forwards to it is unknown
    IPv6Network("2001::/23"),  # Teredo and other experiments
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),  # documentation, which older Pythons hold for global
)


def resolve(host: str, port: int) -> list[str]:
    """By the system's resolver. Raises: OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(text: str) -> bool:
    """Whether an address is public; what is no address is not."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    address = _carried(address)
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved)
        and not any(address in network for network in _REFUSED)
    )


def _carried(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that such an IPv6 address is another spelling of, if it is."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:  # what hosts without IPv4 reach all of it by
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_in(text: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    """Whether an address is in one of these networks, however it is spelled."""
    address = _carried(ip_address(text))
    return any(address in network for network in networks)


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


MAX_URL = 2000
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A URL taken apart. What stands behind the host may be a secret of the tenant's."""

    scheme: str
    host: str
    """As it is resolved: in ASCII, an address without brackets."""
    port: int
    netloc: bytes
    """As the header Host has it."""
    target: bytes = field(repr=False)

    @classmethod
    def parse(cls, url: str, settings: WebhookSettings) -> "WebhookTarget":
        """Raises: UnsafeUrlError. That a name has no private address is seen when it is sent to."""
        schemes = ("https", "http") if settings.allow_http else ("https",)
        allowed = f"give {'://HOST/PATH or '.join(schemes)}://HOST/PATH"
        if not 1 <= len(url) <= MAX_URL:
            raise UnsafeUrlError(
                f"a webhook's URL of {len(url)} characters was given: give 1 to {MAX_URL}"
            )
        try:
            parsed = httpx.URL(url)
            host = parsed.raw_host.decode("ascii")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise UnsafeUrlError(f"a webhook's URL is none: {error}; {allowed}") from error
        if parsed.scheme not in schemes:
            raise UnsafeUrlError(
                f"a webhook's URL begins with {parsed.scheme[:20]!r}, which is not sent to: "
                f"{allowed}"
            )
        port = parsed.port if parsed.port is not None else _PORTS[parsed.scheme]
        if not host or parsed.userinfo or parsed.fragment or not 1 <= port <= 65535:
            raise UnsafeUrlError(
                "a webhook's URL has no host, a port that there is not, a name and password, or a "
                f"#: {allowed}"
            )
        sink = cls(parsed.scheme, host, port, parsed.netloc, parsed.raw_path)
        with suppress(ValueError):
            ip_address(host)
            sink.check([host], settings)
        return sink

    def check(self, addresses: list[str], settings: WebhookSettings) -> None:
        """Refuse if any of its addresses is not to be sent to. Raises: UnsafeUrlError, which does
        not say what they are: to whom it may go on, they are none of their business.
        """
        if not settings.allow_private and not all(
            is_public(address) and not is_in(address, settings.refused) for address in addresses
        ):
            raise UnsafeUrlError(
                f"{self.host} has an address that is not public: give a host on the internet"
            )
