"""Webhook URLs and the SSRF policy: only addresses that anyone on the internet can reach.

Tenants choose the URLs, so nothing in them is trusted. A webhook to a private address would let a
tenant reach hosts inside our network through us (server-side request forgery).
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
"""Returns the addresses of a host at a port, as text."""

_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_DENIED_NETWORKS = (
    IPv4Network("192.0.0.0/24"),  # reserved for protocols, some of which answer on any host
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv6Network("2002::/16"),  # 6to4: contains an IPv4 address, and the relay is unknown
    IPv6Network("2001::/23"),  # Teredo and other experiments
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),  # documentation, which older Pythons consider global
)


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host by the system's resolver.

    Raises:
        OSError: The name cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(text: str) -> bool:
    """Return True if the text is a public address."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    address = _embedded_ipv4(address)
    # `is_global` alone is not enough: it is true of fec0::1, a site-local address, and of all
    # ranges that are not assigned yet.
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved)
        and not any(address in network for network in _DENIED_NETWORKS)
    )


def _embedded_ipv4(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, or else the address itself.

    Without this, `::ffff:10.0.0.1` would pass as a public IPv6 address.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:  # Hosts without IPv4 reach all IPv4 addresses by this prefix.
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_in_networks(text: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    """Return True if an address, in either notation, is in one of the networks."""
    address = _embedded_ipv4(ip_address(text))
    return any(address in network for network in networks)


class WebhookSettings(BaseModel):
    """The operator's settings of webhooks; tenants cannot change them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    allow_http: bool = Field(default=False, description="also send without encryption")
    allow_private: bool = Field(default=False, description="also send to private addresses")
    denied_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="public addresses that belong to the operator's own network"
    )
    timeout_s: float = Field(default=10, gt=0, le=20, description="of one delivery as a whole")
    give_up_after_s: float = Field(default=72 * 3600, gt=0, description="after the job's end")
    num_threads: int = Field(default=16, ge=1, le=256, description="concurrent deliveries")
    max_per_tenant: int = Field(
        default=4, ge=1, le=256, description="concurrent deliveries of one tenant"
    )


MAX_URL_LENGTH = 2000
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A webhook URL, parsed. Its path and query may contain a secret of the tenant's."""

    scheme: str
    host: str
    """The host as it is resolved: in ASCII, and an IPv6 address without brackets."""
    port: int
    netloc: bytes
    """The value of the Host header."""
    target: bytes = field(repr=False)
    """The path and the query."""

    @classmethod
    def parse(cls, url: str, settings: WebhookSettings) -> "WebhookTarget":
        """Parse a URL and check what can be checked without resolving its host.

        Raises:
            UnsafeUrlError: The URL is malformed, or has a scheme or an address that is not allowed.
        """
        schemes = ("https", "http") if settings.allow_http else ("https",)
        hint = f"give {'://HOST/PATH or '.join(schemes)}://HOST/PATH"
        if not 1 <= len(url) <= MAX_URL_LENGTH:
            raise UnsafeUrlError(
                f"the webhook's URL has {len(url)} characters: give 1 to {MAX_URL_LENGTH}"
            )
        try:
            parsed = httpx.URL(url)
            host = parsed.raw_host.decode("ascii")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise UnsafeUrlError(f"the webhook's URL is malformed: {error}; {hint}") from error
        if parsed.scheme not in schemes:
            raise UnsafeUrlError(
                f"the webhook's URL has the scheme {parsed.scheme[:20]!r}, which is not allowed: "
                f"{hint}"
            )
        port = parsed.port if parsed.port is not None else _DEFAULT_PORTS[parsed.scheme]
        if not host or parsed.userinfo or parsed.fragment or not 1 <= port <= 65535:
            raise UnsafeUrlError(
                "the webhook's URL has no host, an invalid port, a user name or password, or a "
                f"fragment: {hint}"
            )
        target = cls(parsed.scheme, host, port, parsed.netloc, parsed.raw_path)
        # A literal address can be checked now, so that the tenant learns of it at the submission; a
        # name is resolved at each delivery, as its addresses can change.
        with suppress(ValueError):
            ip_address(host)
            target.check_addresses([host], settings)
        return target

    def check_addresses(self, addresses: list[str], settings: WebhookSettings) -> None:
        """Check that a message may be sent to all addresses of the host.

        Raises:
            UnsafeUrlError: An address is not allowed. The message does not name the address: it
                would tell the tenant about our network.
        """
        if not settings.allow_private and not all(
            is_public(address) and not is_in_networks(address, settings.denied_networks)
            for address in addresses
        ):
            raise UnsafeUrlError(
                f"{self.host} has an address that is not public: give a host on the internet"
            )
