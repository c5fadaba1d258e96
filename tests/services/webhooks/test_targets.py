"""The SSRF policy: public addresses and accepted URLs."""

from ipaddress import ip_network
from typing import Any

import pytest

from services.errors import UnsafeUrlError
from services.webhooks.targets import (
    MAX_URL_LENGTH,
    WebhookSettings,
    WebhookTarget,
    is_public,
    resolve,
)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "93.184.216.34",
        "2606:4700:4700::1111",
        "2a00:1450:4001:800::200e",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ],
)
def test_internet_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "192.0.0.9", "192.0.2.1", "198.18.0.1", "192.88.99.1"),
        *("224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
        *("ff0e::1", "2001:db8::1", "3fff::1", "2001::1", "2001:10::1", "100::1", "5f00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1"),
        *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8"),
        *("2002:7f00:1::1", "2002:808:808::1", "2001:0:808:808::1"),
        *("", "localhost", "2130706433", "0x7f.1", "127.1"),
    ],
)
def test_other_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_odd_spellings_of_localhost_are_recognised_by_their_address() -> None:
    for host in ("2130706433", "0x7f.1", "127.1", "localhost"):
        found = resolve(host, 443)
        assert found
        assert not any(map(is_public, found))


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("https://example.com", "example.com", 443, b"/"),
        ("https://example.com:8443/a/b?c=d", "example.com", 8443, b"/a/b?c=d"),
        ("HTTPS://EXAMPLE.com/A", "example.com", 443, b"/A"),
        ("https://bücher.example/ü", "xn--bcher-kva.example", 443, b"/%C3%BC"),
        ("https://8.8.8.8/", "8.8.8.8", 443, b"/"),
        ("https://[2606:4700:4700::1111]:444/", "2606:4700:4700::1111", 444, b"/"),
    ],
)
def test_urls_are_parsed(url: str, host: str, port: int, target: bytes) -> None:
    parsed = WebhookTarget.parse(url, WebhookSettings())
    assert (parsed.scheme, parsed.host, parsed.port, parsed.target) == ("https", host, port, target)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "has 0 characters: give 1 to 2000"),
        ("https://a.b/" + "x" * MAX_URL_LENGTH, "give 1 to 2000"),
        ("http://example.com/", "scheme 'http', which is not allowed: give https://HOST/PATH"),
        ("ftp://example.com/", "has the scheme 'ftp'"),
        ("file:///etc/passwd", "has the scheme 'file'"),
        ("example.com/hook", "has the scheme ''"),
        ("https://", "has no host"),
        ("https://name:word@example.com/", "a user name or password"),
        ("https://example.com/#part", "or a fragment"),
        ("https://example.com:99999/", "an invalid port"),
        ("https://example.com:0/", "an invalid port"),
        ("https://example.com:port/", "is malformed"),
        ("https://exa\x00mple.com/", "is malformed"),
        ("https://127.0.0.1/", "127.0.0.1 has an address that is not public"),
        ("https://[::1]/", "not public"),
        ("https://[::ffff:10.0.0.1]/", "not public"),
        ("https://169.254.169.254/latest/meta-data", "not public"),
    ],
)
def test_malformed_and_private_urls_are_refused(url: str, says: str) -> None:
    with pytest.raises(UnsafeUrlError, match=says) as caught:
        WebhookTarget.parse(url, WebhookSettings())
    assert "word" not in str(caught.value).replace("password", "")


def test_the_operator_can_allow_http_and_private_addresses() -> None:
    allowed = WebhookSettings(allow_http=True, allow_private=True)
    assert WebhookTarget.parse("http://127.0.0.1:9/hook", allowed).port == 9
    with pytest.raises(UnsafeUrlError, match="not public"):
        WebhookTarget.parse("http://127.0.0.1/", WebhookSettings(allow_http=True))
    with pytest.raises(UnsafeUrlError, match="has the scheme 'http'"):
        WebhookTarget.parse("http://127.0.0.1/", WebhookSettings(allow_private=True))


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_denied_networks_are_refused_in_every_notation(address: str) -> None:
    network: Any = ip_network("8.8.0.0/16")
    settings = WebhookSettings(denied_networks=(network,))
    target = WebhookTarget.parse("https://example.com/", settings)
    target.check_addresses(["9.9.9.9"], settings)
    with pytest.raises(UnsafeUrlError, match="not public"):
        target.check_addresses(["9.9.9.9", address], settings)
