"""Posting a message to an address that somebody else chose, such as a callback: by the rules of outside.py.

A redirect is an answer like any other here, and is not followed: it could lead a signed message anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from providers.http.addresses import (
    NETWORK_FAULTS,
    OutsideError,
    Resolver,
    checked,
    exchange,
    name_of,
    safe_address,
    system_resolver,
)


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    allow_hosts: Collection[str] = (),
    resolver: Resolver | None = None,
) -> int:
    """Send `body` once, within `timeout_s` in all; the HTTP status of the answer, whose body is not read.

    Raises OutsideError when the address is refused or nobody answers; its message names the host alone.
    """
    target = checked(url, allow_hosts)
    try:
        async with asyncio.timeout(timeout_s):
            address = await safe_address(target, allow_hosts, resolver or system_resolver)
            async with exchange("POST", target, address, headers, body) as response:
                return response.status_code
    except TimeoutError:
        raise OutsideError(f"{name_of(target)} did not answer within {timeout_s:g} s.") from None
    except NETWORK_FAULTS as error:
        raise OutsideError(f"{name_of(target)} could not be reached ({type(error).__name__}).") from None
