"""Where webhooks are sent: URLs that tenants give, so not to be trusted."""

from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

import httpx

from services.errors import UnsafeUrlError
from services.webhooks.addresses import is_in, is_public
from services.webhooks.settings import WebhookSettings

MAX_URL = 2000
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Sink:
    """A URL taken apart. What stands behind the host may be a secret of the tenant's."""

    scheme: str
    host: str
    """As it is resolved: in ASCII, an address without brackets."""
    port: int
    netloc: bytes
    """As the header Host has it."""
    target: bytes = field(repr=False)

    @classmethod
    def parse(cls, url: str, settings: WebhookSettings) -> "Sink":
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
