"""Sends one request to an address that others chose and `addresses` checked.

A direct connection goes to a checked address alone. Behind a proxy the name goes to the proxy, which resolves it. No
request here carries a credential or a cookie, or follows a redirect.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx2

from providers.http.addresses import name_of
from providers.http.tls import tls_context

CONNECT_S = 10.0  # the longest search for a connection, over all addresses of a host
MOST_ADDRESSES = 16  # whoever owns the name could let us try thousands

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

    The search for a connection takes at most half of `timeout_s`, and CONNECT_S. Raises one of NETWORK_FAULTS. Each
    exchange has its own transport: a pooled connection is keyed by address here, and must never serve another name.
    """
    proxy = way if isinstance(way, httpx2.Proxy) else None
    hosts = [target.host] if isinstance(way, httpx2.Proxy) else way[:MOST_ADDRESSES]
    extensions = {"sni_hostname": name_of(target)}
    headers = {"Host": target.netloc.decode("ascii"), **headers}
    requests = [
        httpx2.Request(
            method, target.copy_with(host=each), headers=headers, content=content, extensions=extensions
        )
        for each in hosts
    ]
    async with httpx2.AsyncHTTPTransport(verify=tls_context(), trust_env=False, proxy=proxy) as transport:
        response = await first_answer(transport, requests, within_s=min(CONNECT_S, timeout_s / 2))
        try:
            yield response
        finally:
            await response.aclose()


async def first_answer(
    transport: httpx2.AsyncBaseTransport,
    requests: Sequence[httpx2.Request],
    *,
    within_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> httpx2.Response:
    """The answer to the first request that finds a connection within `within_s`: none of the others leaves.

    Each waits for its connection as long as each of those behind it still can: what a quick refusal leaves is shared
    by the rest, and silent addresses leave the last one as much as the first. Raises the fault of the last one tried.
    """
    ends_at = clock() + within_s
    fault: httpx2.TransportError = httpx2.ConnectTimeout("no address to connect to")
    for index, request in enumerate(requests):
        share_s = (ends_at - clock()) / (len(requests) - index)
        if share_s <= 0:
            break
        request.extensions = {**request.extensions, "timeout": {**_TIMEOUTS, "connect": share_s}}
        try:
            response = await transport.handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            fault = error
        else:
            response.request = request
            return response
    raise fault


_TIMEOUTS = {"read": 20.0, "write": 10.0, "pool": 10.0}  # seconds
