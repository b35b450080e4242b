"""Sends one request to an address that others chose and `addresses` checked.

A direct connection goes to a checked address alone. Behind a proxy the name goes to the proxy, which resolves it. No
request here carries a credential or a cookie, or follows a redirect.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx2

from providers.http.addresses import name_of
from providers.http.tls import tls_context

# The faults of a request that was allowed to leave.
NETWORK_FAULTS = (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError, ValueError)


@asynccontextmanager
async def exchange(
    method: str,
    target: httpx2.URL,
    way: Sequence[str] | httpx2.Proxy,
    headers: Mapping[str, str],
    content: bytes = b"",
    *,
    timeout_s: float,
) -> AsyncIterator[httpx2.Response]:
    """The answer of `target`, by a proxy or at the first checked address that lets us connect; its body is unread.

    Each address but a good one may use up its share of `timeout_s`; then as much is left for the exchange itself.
    Raises one of NETWORK_FAULTS. Each exchange has its own transport: a pooled connection is keyed by address here, and
    must never serve another name.
    """
    proxy = way if isinstance(way, httpx2.Proxy) else None
    hosts = [target.host] if isinstance(way, httpx2.Proxy) else way
    connect_s = min(10.0, timeout_s / (len(hosts) + 1))
    extensions = {
        "sni_hostname": name_of(target),
        "timeout": {"connect": connect_s, "read": 20.0, "write": 10.0, "pool": 10.0},
    }
    headers = {"Host": target.netloc.decode("ascii"), **headers}
    requests = [
        httpx2.Request(
            method, target.copy_with(host=each), headers=headers, content=content, extensions=extensions
        )
        for each in hosts
    ]
    async with httpx2.AsyncHTTPTransport(verify=tls_context(), trust_env=False, proxy=proxy) as transport:
        response = await _first_answer(transport, requests)
        try:
            yield response
        finally:
            await response.aclose()


async def _first_answer(
    transport: httpx2.AsyncHTTPTransport, requests: Sequence[httpx2.Request]
) -> httpx2.Response:
    """The answer to the first request that finds a connection: none of the others leaves."""
    for request in requests:
        try:
            response = await transport.handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            if request is requests[-1]:
                raise
        else:
            response.request = request
            return response
    raise ValueError("no address to connect to")
