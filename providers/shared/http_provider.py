"""What providers share that speak HTTP to one account: the client, how a call is sent and read, how pictures come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import httpx2

from providers.base import Picture, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.client import MAX_ANSWER_BYTES, Answer, create_client, send_once
from providers.shared.account import picture_hosts
from providers.shared.pictures import fetch_picture

T = TypeVar("T")


class HttpProvider:
    """Base of such providers; they add `name`, `capabilities`, `check`, `submit` and `poll`."""

    def __init__(self, url: httpx2.URL, secrets: Collection[str], options: Mapping[str, str]) -> None:
        self._host = url.host
        self._secrets = tuple(secrets)
        self._allow_hosts = picture_hosts(url, options)
        self._client = create_client(str(url))

    async def cancel(self, submitted: Submitted) -> bool:  # noqa: ARG002 (the interface's signature)
        """Always False: none of these APIs takes back what it has accepted."""
        return False

    async def fetch(self, picture: Picture) -> bytes:
        """See Provider.fetch and `fetch_picture`."""
        return await fetch_picture(picture, host=self._host, allow_hosts=self._allow_hosts)

    async def aclose(self) -> None:
        """See Provider.aclose."""
        await self._client.aclose()

    async def _call(
        self,
        request: httpx2.Request,
        read: Callable[[Answer], T],
        *,
        timeout_s: float,
        lost: ErrorKind = ErrorKind.AMBIGUOUS_SUBMIT,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> T:
        """What `read` makes of the answer to one request; see `send_once`. No error shows a secret of the account."""
        try:
            return read(
                await send_once(self._client, request, timeout_s=timeout_s, lost=lost, max_bytes=max_bytes)
            )
        except ProviderError as error:
            for secret in self._secrets:
                error.without(secret)
            raise error from None
