"""Downloads from addresses that somebody else chose, without becoming their door into the private network.

https only, every resolved address is checked and the connection goes to a checked one, redirects are checked
again, and size and time are capped. No credential, cookie or proxy is ever involved.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence

import httpx2

from providers.tls import tls_context

MAX_REDIRECTS = 3
DEFAULT_TIMEOUT_S = 30.0

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


class DownloadError(Exception):
    """A download that was refused or failed; the message is a sentence that can be shown.

    `problem` is the message without advice for whoever gave the address. `refused`: the address or the content breaks a
    rule, so trying again is pointless. `allow`: the entry of `allow_hosts` that would let it through, where one would.
    `http_status`: what the server said, if it answered.
    """

    def __init__(
        self,
        problem: str,
        *,
        refused: bool = False,
        advice: str = "",
        allow: str | None = None,
        http_status: int | None = None,
    ) -> None:
        self.problem = problem
        self.message = f"{problem.removesuffix('.')}: {advice}." if advice else problem
        super().__init__(self.message)
        self.refused = refused
        self.allow = allow
        self.http_status = http_status


def check_url(url: str, allow_hosts: Collection[str] = ()) -> str | None:
    """Why `url` may not be fetched, as a sentence, or None. Asks no network, so names are not resolved here.

    `allow_hosts` holds `host` or `host:port`: these may use plain http, any port (or that one) and private
    addresses. Link-local addresses, where clouds keep credentials, are never allowed.
    """
    try:
        _checked(url, allow_hosts)
    except DownloadError as error:
        return error.message
    return None


async def download(
    url: str,
    *,
    max_bytes: int,
    allow_hosts: Collection[str] = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
    resolver: Resolver | None = None,
) -> bytes:
    """The content of `url`, at most `max_bytes`, within `timeout_s` in all; raises DownloadError."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _follow(url, max_bytes, allow_hosts, resolver or _system_resolver)
    except TimeoutError:
        message = f"The download from {_host_of(url)} did not finish within {timeout_s:g} s."
        raise DownloadError(message) from None


async def _follow(url: str, max_bytes: int, allow_hosts: Collection[str], resolver: Resolver) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        target = _checked(url, allow_hosts)
        address = await _safe_address(target, allow_hosts, resolver)
        answer = await _get(target, address, max_bytes)
        if isinstance(answer, bytes):
            return answer
        url = str(answer)
    raise DownloadError(f"{_host_of(url)} redirects more than {MAX_REDIRECTS} times.", refused=True)


async def _get(target: httpx2.URL, address: str, max_bytes: int) -> bytes | httpx2.URL:
    """The body, or where it has moved to."""
    # A client for each hop: a pooled connection is keyed by address here, and must never serve another name.
    transport = httpx2.AsyncHTTPTransport(verify=tls_context(), trust_env=False)
    request = httpx2.Request(
        "GET",
        target.copy_with(host=address),
        headers={
            "Host": target.netloc.decode("ascii"),
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",
        },
        extensions={
            "sni_hostname": _name(target),
            "timeout": {"connect": 10.0, "read": 20.0, "write": 10.0, "pool": 10.0},
        },
    )
    try:
        async with transport:
            response = await transport.handle_async_request(request)
            response.request = request
            try:
                if response.has_redirect_location:
                    return target.join(response.headers["location"])
                return await _capped_body(response, _name(target), max_bytes)
            finally:
                await response.aclose()
    except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError, ValueError) as error:
        name = type(error).__name__
        raise DownloadError(f"The download from {_name(target)} failed ({name}).") from None


async def _capped_body(response: httpx2.Response, host: str, max_bytes: int) -> bytes:
    if response.status_code != 200:
        message = f"{host} answered the download with HTTP status {response.status_code}."
        raise DownloadError(message, http_status=response.status_code)
    too_large = DownloadError(f"The file at {host} is larger than {max_bytes} bytes.", refused=True)
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    # Raw, so that a compressed answer cannot grow past the cap while it is unpacked.
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def _checked(url: str, allow_hosts: Collection[str]) -> httpx2.URL:
    """`url` parsed, its scheme, port and literal address checked."""
    try:
        target = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        raise DownloadError("This is not a valid URL.", refused=True) from None
    host = _name(target).rstrip(".")
    if target.scheme not in ("http", "https") or not host:
        raise DownloadError("Only https:// URLs can be downloaded.", refused=True)
    if not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise DownloadError("The URL's host name is not valid.", refused=True)
    if target.userinfo:
        raise DownloadError("A URL with a user name or password is not accepted.", refused=True)
    allowed = _is_allowed(target, allow_hosts)
    # Before scheme and port, so that nobody is told to change what would not help.
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


async def _safe_address(target: httpx2.URL, allow_hosts: Collection[str], resolver: Resolver) -> str:
    """One address of the host to connect to, after all of them were found harmless."""
    host = _name(target)
    literal = _literal_address(host)
    if literal is not None:
        return str(literal)
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        addresses = await resolver(host, port)
    except OSError:
        raise DownloadError(f"The host name {host} could not be resolved.") from None
    if not addresses:
        raise DownloadError(f"The host name {host} has no address.")
    allowed = _is_allowed(target, allow_hosts)
    for address in addresses:
        _check_address(host, ipaddress.ip_address(address.partition("%")[0]), allowed=allowed)
    return addresses[0]


def _check_address(host: str, address: IPAddress, *, allowed: bool) -> None:
    for inner in _unwrapped(address):
        if inner.is_link_local or inner.is_multicast or inner.is_unspecified:
            raise _never(host)
        if not allowed and not inner.is_global:
            raise _private(host)


def _unwrapped(address: IPAddress) -> tuple[IPAddress, ...]:
    """The address, and the IPv4 one inside it where IPv6 only wraps one (mapped, 6to4, NAT64, Teredo)."""
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
    host = _name(target).rstrip(".")
    port = target.port or (443 if target.scheme == "https" else 80)
    bracketed = f"[{host}]" if ":" in host else host
    return not {host, bracketed, f"{bracketed}:{port}"}.isdisjoint(entry.lower() for entry in allow_hosts)


def _private(host: str) -> DownloadError:
    return _refused(f"{host} is not a public address.", host)


def _refused(problem: str, allow: str) -> DownloadError:
    return DownloadError(
        problem,
        refused=True,
        advice=f"{_INSTEAD}, or let the operator add the host to `allow_hosts`",
        allow=allow,
    )


def _never(host: str) -> DownloadError:
    problem = f"{host} is not a public address, and one that is never fetched."
    return DownloadError(problem, refused=True, advice=_INSTEAD)


_INSTEAD = "give an https URL of a public host"


def _name(target: httpx2.URL) -> str:
    """The host as it goes to DNS: lower case, and look-alike digits and dots made plain."""
    return target.raw_host.decode("ascii").lower()


def _host_of(url: str) -> str:
    try:
        return httpx2.URL(url).host or "the given URL"
    except (httpx2.InvalidURL, ValueError):
        return "the given URL"


async def _system_resolver(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]
