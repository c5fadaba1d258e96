"""Which addresses a webhook may go to: those that anyone on the internet could reach as well, so
that nobody reaches by us what stands behind our walls.
"""

import socket
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

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
