"""Downloads from, and posts to, addresses from jobs and replies, by the rules of `addresses`.

A download follows redirects, and checks each like a first address. A post does not: a redirect could lead a signed
message anywhere. They leave by the proxy of the provider's calls; `leave_by_proxy(False)` sends them past it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import httpx2

from providers.http.addresses import (
    OutsideError,
    Resolver,
    checked,
    host_of,
    name_of,
    safe_addresses,
    system_resolver,
)
from providers.http.exchange import NETWORK_FAULTS, KeptConnections, exchange
from providers.http.faults import PROXY_WANTS_LOGIN, Unreached, login_refused, unreached, why
from providers.http.proxies import proxy_for
from providers.http.room import TooLarge, read_into, time_to_read

__all__ = ["OutsideError", "download", "post"]

MAX_REDIRECTS = 3
HEADERS = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}

Way = Sequence[str] | httpx2.Proxy

_by_proxy = True  # of this process


def leave_by_proxy(by_proxy: bool) -> None:
    """Set for this process whether its downloads and posts use the proxy that the environment names, as at first."""
    global _by_proxy
    _by_proxy = by_proxy


async def download(
    url: str,
    *,
    max_bytes: int,
    allow_hosts: Collection[str] = (),
    timeout_s: float = 30.0,
    resolver: Resolver = system_resolver,
    connections: KeptConnections | None = None,
) -> bytes:
    """The content of `url`, at most `max_bytes`, within `timeout_s` in all; raises OutsideError.

    `connections` of earlier downloads may carry it, also those to the hosts of redirects.
    """
    try:
        async with time_to_read(timeout_s):
            return await _follow(url, max_bytes, allow_hosts, resolver, timeout_s, connections)
    except TimeoutError:
        message = f"The download from {host_of(url)} did not finish within {timeout_s:g} s."
        raise OutsideError(message) from None


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    allow_hosts: Collection[str] = (),
    resolver: Resolver = system_resolver,
) -> int:
    """Send `body` once, within `timeout_s` in all. Returns the HTTP status of the answer; its body is not read.

    Raises OutsideError if the address is refused or does not answer; its message names the host alone.
    """
    target = checked(url, allow_hosts)
    way: Way = ()
    try:
        async with asyncio.timeout(timeout_s):
            way = await _way(target, allow_hosts, resolver)
            async with exchange("POST", target, way, headers, body, timeout_s=timeout_s) as response:
                _check_passed_on(response, name_of(target), way)
                return response.status_code
    except TimeoutError:
        raise OutsideError(f"{name_of(target)} did not answer within {timeout_s:g} s.") from None
    except NETWORK_FAULTS as error:
        raise OutsideError(f"{name_of(target)} could not be reached ({why(error, _proxy(way))}).") from None


def _proxy(way: Way) -> httpx2.Proxy | None:
    return way if isinstance(way, httpx2.Proxy) else None


def _check_passed_on(response: httpx2.Response, host: str, way: Way) -> None:
    """Raise OutsideError if a proxy refused to pass the request on; a tunnel is refused before."""
    if response.status_code == PROXY_WANTS_LOGIN:
        message = f"{host} could not be reached ({login_refused(_proxy(way))})."
        raise OutsideError(message, unreached=Unreached.MACHINE)


async def _way(target: httpx2.URL, allow_hosts: Collection[str], resolver: Resolver) -> Way:
    """The proxy, or the addresses of the host. A proxy resolves the name itself, so those cannot be checked."""
    proxy = proxy_for(target) if _by_proxy else None
    return proxy or await safe_addresses(target, allow_hosts, resolver)


async def _follow(
    url: str,
    max_bytes: int,
    allow_hosts: Collection[str],
    resolver: Resolver,
    timeout_s: float,
    connections: KeptConnections | None,
) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        target = checked(url, allow_hosts)
        way = await _way(target, allow_hosts, resolver)
        answer = await _get(target, way, max_bytes, timeout_s, connections)
        if isinstance(answer, bytes):
            return answer
        url = str(answer)
    raise OutsideError(f"{host_of(url)} redirects more than {MAX_REDIRECTS} times.", refused=True)


async def _get(
    target: httpx2.URL, way: Way, max_bytes: int, timeout_s: float, connections: KeptConnections | None
) -> bytes | httpx2.URL:
    """The body, or the address of a redirect."""
    try:
        async with exchange(
            "GET", target, way, HEADERS, timeout_s=timeout_s, connections=connections
        ) as response:
            _check_passed_on(response, name_of(target), way)
            if response.has_redirect_location:
                return target.join(response.headers["location"])
            return await _capped_body(response, name_of(target), max_bytes)
    except NETWORK_FAULTS as error:
        message = f"The download from {name_of(target)} failed ({why(error, _proxy(way))})."
        raise OutsideError(message, unreached=unreached(error, _proxy(way))) from None


async def _capped_body(response: httpx2.Response, host: str, max_bytes: int) -> bytes:
    if response.status_code != 200:
        message = f"{host} answered the download with HTTP status {response.status_code}."
        raise OutsideError(message, http_status=response.status_code)
    body = bytearray()
    try:
        await read_into(body, response, max_bytes)
    except TooLarge:
        raise OutsideError(f"The file at {host} is larger than {max_bytes} bytes.", refused=True) from None
    return bytes(body)
