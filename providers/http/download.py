"""Downloads from addresses that somebody else chose: by the rules of outside.py, capped in size and time.

Redirects are followed, and checked like a first address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import httpx2

from providers.http.addresses import (
    NETWORK_FAULTS,
    OutsideError,
    Resolver,
    check_url,
    checked,
    exchange,
    host_of,
    name_of,
    safe_address,
    system_resolver,
)

__all__ = ["DownloadError", "Resolver", "check_url", "download"]

MAX_REDIRECTS = 3
DEFAULT_TIMEOUT_S = 30.0
HEADERS = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


class DownloadError(OutsideError):
    """A download that was refused or failed."""


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
            return await _follow(url, max_bytes, allow_hosts, resolver or system_resolver)
    except TimeoutError:
        message = f"The download from {host_of(url)} did not finish within {timeout_s:g} s."
        raise DownloadError(message) from None
    except OutsideError as error:
        raise DownloadError(
            error.problem,
            refused=error.refused,
            advice=error.advice,
            allow=error.allow,
            http_status=error.http_status,
        ) from None


async def _follow(url: str, max_bytes: int, allow_hosts: Collection[str], resolver: Resolver) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        target = checked(url, allow_hosts)
        address = await safe_address(target, allow_hosts, resolver)
        answer = await _get(target, address, max_bytes)
        if isinstance(answer, bytes):
            return answer
        url = str(answer)
    raise DownloadError(f"{host_of(url)} redirects more than {MAX_REDIRECTS} times.", refused=True)


async def _get(target: httpx2.URL, address: str, max_bytes: int) -> bytes | httpx2.URL:
    """The body, or where it has moved to."""
    try:
        async with exchange("GET", target, address, HEADERS) as response:
            if response.has_redirect_location:
                return target.join(response.headers["location"])
            return await _capped_body(response, name_of(target), max_bytes)
    except NETWORK_FAULTS as error:
        name = type(error).__name__
        raise DownloadError(f"The download from {name_of(target)} failed ({name}).") from None


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
