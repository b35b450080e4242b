"""Checks addresses from jobs and replies, so that they never lead into a private network.

Only https, and every resolved address is checked. See `exchange` for the connection to a checked address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import httpx2

from providers.http.faults import Unreached, unreached

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(eq=False)
class OutsideError(Exception):
    """A request that was refused or failed; the message is a sentence that can be shown.

    `problem` is the message without the `advice` for the author of the address. `refused`: the address or the content
    breaks a rule, so trying again is pointless. `allow`: the entry of `allow_hosts` that would let it through.
    `http_status`: the server's status, if it answered. `unreached`: whose lack kept the request from the host.
    """

    problem: str
    refused: bool = False
    advice: str = ""
    allow: str | None = None
    http_status: int | None = None
    unreached: Unreached | None = None

    @property
    def message(self) -> str:
        return f"{self.problem.removesuffix('.')}: {self.advice}." if self.advice else self.problem

    def __str__(self) -> str:
        return self.message


def check_url(url: str, allow_hosts: Collection[str] = ()) -> str | None:
    """Why `url` is refused, as a sentence; None if it is accepted. Uses no network, so names are not resolved.

    `allow_hosts` holds `host` or `host:port`: these may use plain http, any port (or that one) and private
    addresses. Link-local addresses, where clouds keep credentials, are never allowed.
    """
    try:
        checked(url, allow_hosts)
    except OutsideError as error:
        return error.message
    return None


def checked(url: str, allow_hosts: Collection[str]) -> httpx2.URL:
    """`url` parsed, its scheme, port and literal address checked; raises OutsideError."""
    try:
        target = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        raise OutsideError("This is not a valid URL.", refused=True) from None
    host = name_of(target).rstrip(".")
    if target.scheme not in ("http", "https") or not host:
        raise OutsideError("Only https:// URLs are accepted.", refused=True)
    if not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise OutsideError("The URL's host name is not valid.", refused=True)
    if target.userinfo:
        raise OutsideError("A URL with a user name or password is not accepted.", refused=True)
    allowed = _is_allowed(target, allow_hosts)
    # Before scheme and port: otherwise the sentence would advise a change that does not help.
    if (literal := _literal_address(host)) is not None:
        _check_address(host, literal, allowed=allowed)
    if not allowed:
        if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
            raise _private(host)
        if target.scheme != "https":
            raise _refused(f"Plain http is not accepted for {host}.", host)
        if target.port not in (None, 443):
            raise _refused(f"Port {target.port} is not accepted for {host}.", f"{host}:{target.port}")
    return target.copy_with(fragment=None)


async def safe_addresses(target: httpx2.URL, allow_hosts: Collection[str], resolver: Resolver) -> list[str]:
    """The addresses of the host, all checked, in the order in which to try them. Raises OutsideError."""
    host = name_of(target)
    literal = _literal_address(host)
    if literal is not None:
        return [str(literal)]
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        addresses = await resolver(host, port)
    except OSError as error:
        lack = unreached(error)
        raise OutsideError(f"The host name {host} could not be resolved.", unreached=lack) from None
    if not addresses:
        raise OutsideError(f"The host name {host} has no address.")
    allowed = _is_allowed(target, allow_hosts)
    for address in addresses:
        _check_address(host, ipaddress.ip_address(address.partition("%")[0]), allowed=allowed)
    return _families_in_turn(addresses)


def _families_in_turn(addresses: Sequence[str]) -> list[str]:
    """The same addresses, of IPv4 and IPv6 in turn: where one of the two has no route, the other comes second."""
    first = [each for each in addresses if (":" in each) == (":" in addresses[0])]
    other = [each for each in addresses if each not in first]
    pairs = zip_longest(dict.fromkeys(first), dict.fromkeys(other))
    return [each for pair in pairs for each in pair if each is not None]


def _check_address(host: str, address: IPAddress, *, allowed: bool) -> None:
    for inner in _unwrapped(address):
        if inner.is_link_local or inner.is_multicast or inner.is_unspecified:
            problem = f"{host} is not a public address, and one that is never fetched."
            raise OutsideError(problem, refused=True, advice=_INSTEAD)
        if not allowed and not inner.is_global:
            raise _private(host)


def _unwrapped(address: IPAddress) -> tuple[IPAddress, ...]:
    """The address, and the IPv4 addresses that an IPv6 one wraps (mapped, 6to4, NAT64, Teredo)."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    inner: list[IPAddress] = [address]
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner.extend(address.teredo)
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(inner)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _literal_address(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    if not re.fullmatch(r"[0-9a-fx.]+", host, re.IGNORECASE):
        return None
    try:
        # The C library reads 127.1, 0x7f000001 and 2130706433 as addresses too.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_allowed(target: httpx2.URL, allow_hosts: Collection[str]) -> bool:
    host = name_of(target).rstrip(".")
    port = target.port or (443 if target.scheme == "https" else 80)
    bracketed = f"[{host}]" if ":" in host else host
    return not {host, bracketed, f"{bracketed}:{port}"}.isdisjoint(entry.lower() for entry in allow_hosts)


def _private(host: str) -> OutsideError:
    return _refused(f"{host} is not a public address.", host)


def _refused(problem: str, allow: str) -> OutsideError:
    advice = f"{_INSTEAD}, or let the operator add the host to `allow_hosts`"
    return OutsideError(problem, refused=True, advice=advice, allow=allow)


_INSTEAD = "give an https URL of a public host"


def name_of(target: httpx2.URL) -> str:
    """The host as it goes to DNS: lower case, and look-alike digits and dots made plain."""
    return target.raw_host.decode("ascii").lower()


def host_of(url: str) -> str:
    """The host of a URL, for messages: the rest of it may carry a signature."""
    try:
        return httpx2.URL(url).host or "the given URL"
    except (httpx2.InvalidURL, ValueError):
        return "the given URL"


async def system_resolver(host: str, port: int) -> list[str]:
    """Resolve a name as the machine does."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]
