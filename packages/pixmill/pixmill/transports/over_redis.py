"""The way over the Redis of an installation: entries of the jobs stream out, records and events back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from pixmill.broker.errors import in_words
from pixmill.broker.redis_url import RedisUrlError, one_slot_sentence, read_redis_url
from pixmill.client import Client, Sent
from pixmill.client.sending import Acceptance
from pixmill.contract import Rejection
from pixmill.errors import (
    AccessError,
    NotRunningError,
    NotTakenError,
    OutputError,
    RejectedError,
    UnavailableError,
)
from pixmill.records.views import ItemView, View
from pixmill.results import Event, Result, Status
from pixmill.transports.base import PATIENCE_S, no_record

ORDER_S = 30.0  # how long an order waits for a worker to take it


class RedisTransport:
    """Over Redis. A lost connection is opened again; each write is sent once."""

    def __init__(self, url: str, prefix: str, tenant: str) -> None:
        """Raises NotRunningError for an address that cannot be read, and for a prefix that does not fit a cluster."""
        try:
            topology = read_redis_url(url).topology
        except RedisUrlError as error:
            raise NotRunningError(f"The address of Redis must be {error}.") from None
        if topology == "cluster" and not prefix.startswith("{"):
            raise NotRunningError(f"`prefix` {one_slot_sentence(prefix)}.")
        self._tenant = tenant
        self._client = Client(url, prefix, tenant=tenant, patience_s=PATIENCE_S)

    async def open(self) -> None:
        """Nothing: the first command opens a connection."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def submit(self, job: Mapping[str, Any], wait_s: float) -> None:
        """Send a job, and wait for intake's reply."""
        with _in_our_errors():
            await self._taken(await self._client.sender.job({**job, "tenant": self._tenant}), wait_s)

    async def submit_batch(
        self, head: Mapping[str, Any], items: Sequence[Mapping[str, Any]], wait_s: float
    ) -> None:
        """Send a batch in as many entries as it needs, all or none, and wait for intake's reply."""
        with _in_our_errors():
            whole = {**head, "tenant": self._tenant}
            await self._taken(await self._client.sender.batch(whole, items), wait_s)

    async def _taken(self, sent: Sent, wait_s: float) -> Acceptance:
        acceptance = (await self._client.acceptance(sent, wait_s)).unless_rejected()
        if acceptance.state == "unread":
            raise NotTakenError(f'No worker has taken "{sent.id}" in {wait_s:g} s. It runs when one comes.')
        if acceptance.state == "lost":
            raise UnavailableError(f'"{sent.id}" was removed from the jobs stream before a worker read it.')
        return acceptance

    async def status(self, ident: str) -> Status | None:
        """The state in the record."""
        with _in_our_errors():
            view = await self._client.status(ident)
        return None if view is None else _status(view)

    async def results(self, ident: str) -> list[Result]:
        """The results in the records."""
        with _in_our_errors():
            items = await self._client.items_of(await self._view(ident))
        return [Result.from_record(item.as_dict()) for item in items]

    async def watch(self, ident: str, after: str | None) -> AsyncIterator[Event]:
        """The events of the stream; those of a job of its own begin with what its record shows."""
        with _in_our_errors():
            await self._view(ident)
            async for event in self._client.watch(ident, start=after):
                yield Event(event.type, event.data, event.id)

    async def cancel(self, ident: str) -> None:
        """Send a cancel through the jobs stream: a worker carries it out, whatever its version."""
        await self._order("cancel", ident)

    async def retry(self, ident: str) -> None:
        """Send a retry through the jobs stream."""
        await self._order("retry", ident)

    async def _order(self, kind: str, ident: str) -> None:
        with _in_our_errors():
            view = await self._view(ident)
            named = {"job": view.id}
            if isinstance(view, ItemView) and view.batch is not None:
                named["batch"] = view.batch
            elif not isinstance(view, ItemView) and view.kind == "batch":
                named = {"batch": view.id}
            data = {"tenant": self._tenant, **named}
            sent = await self._client.sender.order(f"pixmill.{kind}.v1", data, ident)
            await self._taken(sent, ORDER_S)

    async def _view(self, ident: str) -> View:
        view = await self._client.status(ident)
        if view is None:
            raise no_record(ident)
        return view

    async def picture(self, image: Mapping[str, Any]) -> bytes:
        """The file of the picture, or its address over HTTP."""
        url = str(image.get("url") or "")
        parts = urlsplit(url)
        if parts.scheme == "file":
            try:
                return await asyncio.to_thread(Path(unquote(parts.path)).read_bytes)
            except OSError as error:
                raise OutputError(
                    f"The picture {image.get('key')} cannot be read: {error.strerror}."
                ) from None
        if parts.scheme in ("http", "https"):
            from pixmill.transports.over_http import fetched

            return await fetched(url)
        raise OutputError(
            f"The picture {image.get('key')} is in a store that this client does not read ({parts.scheme or 'none'}): "
            "use a gateway's address, or the client of that store."
        )


def _status(view: View) -> Status:
    return Status.from_record(view.as_dict() | {"id": view.id})


@contextmanager
def _in_our_errors() -> Iterator[None]:
    try:
        yield
    except Rejection as rejection:
        raise RejectedError(rejection.message, rejection.code, rejection.field) from None
    except (AuthenticationError, NoPermissionError) as error:
        raise AccessError(in_words(error)) from None
    except (RedisError, OSError) as error:
        if isinstance(error, NotTakenError):
            raise
        raise UnavailableError(in_words(error)) from None
    except orjson.JSONEncodeError as error:
        raise RejectedError(f"A field is no JSON: {error}.", "invalid") from None
