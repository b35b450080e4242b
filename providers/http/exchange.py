"""Sends one request to an address that others chose and `addresses` checked.

A direct connection goes to a checked address alone. Behind a proxy the name goes to the proxy, which resolves it. No
request here carries a credential or a cookie, or follows a redirect.
"""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx2

from providers.http.addresses import name_of
from providers.http.client import FREE_IDLE_S, create_transport
from providers.http.tls import tls_context

CONNECT_S = 10.0  # the longest search for a connection, over all addresses of a host
MOST_HOSTS, MOST_IDLE = 8, 4  # hosts whose connections are kept, and idle ones to each
MOST_ADDRESSES = 16  # whoever owns the name could let us try thousands

# The faults of a request that was allowed to leave.
NETWORK_FAULTS = (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError, ValueError)


class KeptConnections:
    """Connections to the hosts of an account's pictures, for its next pictures.

    A connection is kept by address, and must never serve another name, so each name has a transport of its own. Its
    address is checked anew before each use.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bytes, str], httpx2.AsyncHTTPTransport] = {}  # the latest one last
        self._users: Counter[httpx2.AsyncHTTPTransport] = Counter()

    @asynccontextmanager
    async def to(
        self, target: httpx2.URL, proxy: httpx2.Proxy | None
    ) -> AsyncIterator[httpx2.AsyncBaseTransport]:
        """The transport for a request to `target`."""
        name = (target.scheme, target.netloc, "" if proxy is None else str(proxy.url))
        transport = self._kept.pop(name, None) or create_transport(proxy, FREE_IDLE_S, MOST_IDLE)
        self._kept[name] = transport
        self._users[transport] += 1
        try:
            yield transport
        finally:
            self._users[transport] -= 1
            await self._forget()

    async def _forget(self) -> None:
        """Close the connections to all but the latest hosts."""
        unused = [name for name, transport in self._kept.items() if not self._users[transport]]
        for name in unused[: max(0, len(self._kept) - MOST_HOSTS)]:
            await self._close(self._kept.pop(name))

    async def _close(self, transport: httpx2.AsyncHTTPTransport) -> None:
        del self._users[transport]
        await transport.aclose()

    async def aclose(self) -> None:
        """Close all connections; may be called twice."""
        while self._kept:
            await self._close(self._kept.popitem()[1])


@asynccontextmanager
async def exchange(
    method: str,
    target: httpx2.URL,
    way: Sequence[str] | httpx2.Proxy,
    headers: Mapping[str, str],
    content: bytes = b"",
    *,
    timeout_s: float,
    connections: KeptConnections | None = None,
) -> AsyncIterator[httpx2.Response]:
    """The answer of `target`, by a proxy or at the first checked address that lets us connect; its body is unread.

    The search for a connection takes at most half of `timeout_s`, and CONNECT_S. Raises one of NETWORK_FAULTS. Without
    `connections` its connection is new, and closed at the end.
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
    way_there: AbstractAsyncContextManager[httpx2.AsyncBaseTransport]
    if connections is None:
        way_there = httpx2.AsyncHTTPTransport(verify=tls_context(), trust_env=False, proxy=proxy)
    else:
        way_there = connections.to(target, proxy)
    async with way_there as transport:
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
