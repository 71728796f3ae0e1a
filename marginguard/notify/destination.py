"""Where a request of ours may go: https alone, and not into the private network by surprise."""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

_LOCALHOST: Final = "localhost"


class PrivateAddressError(OSError):
    """Refuse the connection: the name leads to a private address. Shows the address alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """A checked URL. `host` is safe to show; the rest may hold a token."""

    url: URL
    host: str


def destination(address: str, *, allow_private: bool = False) -> Destination:
    """Return where `address` leads; raises `ValueError`, which says why, if it may not be used.

    Only https is allowed, and http to this machine itself (a loopback address or `localhost`).
    An address in a private network is refused unless `allow_private`. What a *name* leads to is
    known only when the connection is made: there `PublicResolver` decides.
    """
    try:
        url = URL(address)
        host = url.host
    except ValueError:
        host = None
    # The address itself is not shown: it may hold a token.
    if host is None or url.scheme not in {"http", "https"}:
        raise ValueError("it is not an address like https://example.com/path")
    if is_loopback_host(host):
        return Destination(url=url, host=host)
    if url.scheme != "https":
        raise ValueError("http is allowed to this machine alone; use an https:// address")
    if not allow_private and (literal := _literal(host)) is not None and not _is_public(literal):
        raise ValueError(f"{host} is a private address, which allow_private = true allows")
    return Destination(url=url, host=host)


def is_loopback_host(host: str) -> bool:
    """Return whether `host` names this machine itself by its very form."""
    literal = _literal(host)
    return host.lower() == _LOCALHOST if literal is None else literal.is_loopback


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses alone; raises `PrivateAddressError` if there is none.

    The connection is made to what is returned here, so that a name which changes its address
    between a check and its use gains nothing. `localhost` may lead to loopback addresses.
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver if resolver is not None else ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host` that may be used; raises `OSError` if there is none."""
        found = await self._resolver.resolve(host, port, family)
        allowed = [result for result in found if _may_reach(host, result["host"])]
        if found and not allowed:
            raise PrivateAddressError(
                f"{host} leads to the private address {found[0]['host']},"
                " which allow_private = true allows"
            )
        return allowed

    async def close(self) -> None:
        """Close the resolver underneath."""
        await self._resolver.close()


def _may_reach(host: str, address: str) -> bool:
    literal = _literal(address)
    if literal is None:
        return False
    return literal.is_loopback if host.lower() == _LOCALHOST else _is_public(literal)


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return `host` as an address, an IPv4 address inside IPv6 as itself; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_global and not address.is_multicast
