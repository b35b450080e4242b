"""The way over an HTTP gateway: JSON out and back, and its live events."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import orjson

from pixmill.broker.backoff import pause_s
from pixmill.errors import (
    AccessError,
    NotFoundError,
    NotRunningError,
    OutputError,
    PixmillError,
    RejectedError,
    UnavailableError,
)
from pixmill.redaction import redact
from pixmill.results import Event, Result, Status
from pixmill.transports.base import PATIENCE_S, no_record

MOST_IN_JSON = 1000  # items; a gateway takes more only as lines
AT_ONCE = 8  # records that are read beside each other
PAGE = 1000
# The end of a picture's address at a gateway, whatever its public name is.
_PICTURE = re.compile(r"/v1/(?:jobs|batches/[^/]+/items)/[^/]+/images/\d+$")
# An idle stream of events has a comment each few seconds.
TIMEOUT = httpx2.Timeout(60.0, connect=10.0)


class GatewayTransport:
    """Over a gateway. Reads are repeated by a watch alone; each write is sent once."""

    def __init__(self, url: str, key: str | None, tenant: str | None) -> None:
        """Raises AccessError for a key that no gateway has, and NotRunningError for an address that cannot be read."""
        query = {} if tenant is None else {"tenant": tenant}
        self._tenant = tenant
        try:
            self._http = httpx2.AsyncClient(
                base_url=url.rstrip("/"),
                headers=_headers(key),
                params=query,
                timeout=TIMEOUT,
                follow_redirects=False,
            )
        except (httpx2.InvalidURL, ValueError):
            raise NotRunningError(
                "The address of a gateway must be https://host[:port]; this one cannot be read."
            ) from None
        self._reads = asyncio.Semaphore(AT_ONCE)

    async def open(self) -> None:
        """Nothing: the first request opens a connection."""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def submit(self, job: Mapping[str, Any], wait_s: float) -> None:  # noqa: ARG002 - a gateway accepts at once
        """Send a job; the answer comes when it is recorded."""
        await self._send("/v1/jobs", self._owned(job))

    async def submit_batch(
        self,
        head: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        wait_s: float,  # noqa: ARG002 - as above
    ) -> None:
        """Send a batch, as lines if it is large; the answer comes when all of it is recorded."""
        if len(items) <= MOST_IN_JSON:
            await self._send("/v1/batches", {**self._owned(head), "items": list(items)})
        else:
            lines = b"\n".join(_json(each) for each in (self._owned(head), *items))
            await self._send("/v1/batches", lines, "application/x-ndjson")

    def _owned(self, work: Mapping[str, Any]) -> dict[str, Any]:
        return {**work, **({} if self._tenant is None else {"tenant": self._tenant})}

    async def _send(self, path: str, body: Any, media_type: str = "application/json") -> None:
        content = body if isinstance(body, bytes) else _json(body)
        await self._call("POST", path, content=content, headers={"Content-Type": media_type})

    async def status(self, ident: str) -> Status | None:
        """The state in the record."""
        try:
            return Status.from_record((await self._find(ident))[1])
        except NotFoundError:
            return None

    async def results(self, ident: str) -> list[Result]:
        """The results in the records; those of a batch are read beside each other."""
        path, record = await self._find(ident)
        if path.startswith("/v1/jobs/") and record.get("counts"):
            return _pictures_of(record)
        if not record.get("counts"):
            return [Result.from_record(record)]
        names = [str(item["id"]) async for item in self._items(path)]
        records = await asyncio.gather(*(self._item(f"{path}/items/{_quoted(name)}") for name in names))
        return [Result.from_record(each) for each in records]

    async def _items(self, path: str) -> AsyncIterator[Mapping[str, Any]]:
        cursor: str | None = ""
        while cursor is not None:
            asked = {"limit": PAGE, **({"cursor": cursor} if cursor else {})}
            page = await self._call("GET", f"{path}/items", params=asked)
            for item in page["items"]:
                yield item
            cursor = page["next"]

    async def _item(self, path: str) -> dict[str, Any]:
        async with self._reads:
            return await self._call("GET", path)

    async def _find(self, ident: str) -> tuple[str, dict[str, Any]]:
        """The path and the record behind an id: a batch, else a job; `BATCH/ITEM` names one item of a batch."""
        batch, slash, item = ident.partition("/")
        if slash:
            paths = [f"/v1/batches/{_quoted(batch)}/items/{_quoted(item)}"]
        else:
            paths = [f"/v1/batches/{_quoted(ident)}", f"/v1/jobs/{_quoted(ident)}"]
        for path in paths:
            try:
                return path, await self._call("GET", path)
            except NotFoundError:
                continue
        raise no_record(ident)

    async def watch(self, ident: str, after: str | None) -> AsyncIterator[Event]:
        """The gateway's live events; a lost connection is opened again behind the last one."""
        path, _ = await self._find(ident)
        last, failures, since = after, 0, time.monotonic()
        while True:
            try:
                async for event in self._events(f"{path}/events", last):
                    failures, since = 0, time.monotonic()
                    last = event.id or last
                    if event.type == "end":
                        return
                    if event.type != "resync":
                        yield event
            except UnavailableError:
                if time.monotonic() - since > PATIENCE_S:
                    raise
            await asyncio.sleep(pause_s(failures))
            failures += 1

    async def _events(self, path: str, last: str | None) -> AsyncIterator[Event]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        try:
            async with self._http.stream("GET", path, headers=headers) as response:
                if response.status_code != httpx2.codes.OK:
                    await response.aread()
                    raise _error_of(response)
                fields: dict[str, str] = {}
                async for line in response.aiter_lines():
                    name, _, value = line.partition(":")
                    if name:
                        fields[name] = value.removeprefix(" ")
                    elif not line and "data" in fields:
                        yield Event(
                            fields.get("event", ""), orjson.loads(fields["data"]), fields.get("id", "")
                        )
                    if not line:
                        fields = {}
        except httpx2.HTTPError as error:
            raise _unavailable(error) from None

    async def cancel(self, ident: str) -> None:
        """Order a cancel; work that has ended stays as it is."""
        await self._order(ident, "cancel", "already_ended")

    async def retry(self, ident: str) -> None:
        """Order a retry; pictures that are there stay."""
        await self._order(ident, "retry", "already_succeeded", "not_ended")

    async def _order(self, ident: str, order: str, *already: str) -> None:
        path, _ = await self._find(ident)
        try:
            body = b"{}" if "/batches/" in path and "/items/" not in path else b""
            await self._call(
                "POST", f"{path}/{order}", content=body, headers={"Content-Type": "application/json"}
            )
        except RejectedError as error:
            if error.code not in already:
                raise

    async def picture(self, image: Mapping[str, Any]) -> bytes:
        """The picture at its address. The key goes to our gateway alone, which may have another name in addresses."""
        url = str(image.get("url") or "")
        parts, ours = urlsplit(url), urlsplit(str(self._http.base_url))
        if parts.netloc and (parts.scheme, parts.netloc) != (ours.scheme, ours.netloc):
            of_gateway = _PICTURE.search(parts.path)
            if of_gateway is None:
                return await fetched(url)
            url = parts._replace(scheme="", netloc="", path=of_gateway[0]).geturl()
        try:
            response = await self._http.get(url)
        except httpx2.HTTPError as error:
            raise _unavailable(error) from None
        if response.status_code != httpx2.codes.OK:
            raise OutputError(str(_error_of(response)))
        return response.content

    async def _call(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, **how)
        except httpx2.HTTPError as error:
            raise _unavailable(error) from None
        if not response.is_success:
            raise _error_of(response)
        try:
            body = orjson.loads(response.content)
        except ValueError:
            raise NotRunningError(
                "No gateway answers at this address: the answer is no JSON. Check the address."
            ) from None
        return body if isinstance(body, dict) else {}


async def fetched(url: str) -> bytes:
    """The bytes at an address, without any credentials of ours; raises OutputError."""
    try:
        async with httpx2.AsyncClient(timeout=TIMEOUT) as http:
            response = await http.get(url)
    except httpx2.HTTPError as error:
        raise OutputError(f"The picture could not be fetched: {redact(str(error))}.") from None
    if response.status_code != httpx2.codes.OK:
        raise OutputError(f"The picture could not be fetched: status {response.status_code}.")
    return response.content


def _pictures_of(record: Mapping[str, Any]) -> list[Result]:
    """The pictures of a job of several: a gateway gives those that are there, and the first error of the others."""
    images, total = record.get("images") or (), record["counts"]["total"]
    job, error = str(record["id"]), record.get("error")
    made = [Result(f"{job}.{k}", job, "succeeded", (image,), None) for k, image in enumerate(images)]
    state = "failed" if error else str(record["state"])
    return made + [Result(f"{job}.{k}", job, state, (), error) for k in range(len(made), total)]


def _unavailable(error: Exception) -> UnavailableError:
    return UnavailableError(f"The gateway does not answer: {redact(str(error)) or type(error).__name__}.")


def _error_of(response: httpx2.Response) -> PixmillError:
    """The error in an answer, which is `application/problem+json` unless it comes from a proxy."""
    status = response.status_code
    try:
        body = orjson.loads(response.content)
    except ValueError:
        body = None
    problem: Mapping[str, Any] = body if isinstance(body, dict) else {}
    sentence = str(problem.get("detail") or f"The gateway answered with status {status}.")
    if status == 429 or status >= 500:
        return UnavailableError(sentence)
    if status in (401, 403):
        return AccessError(sentence)
    of_gateway = response.headers.get("Content-Type", "").startswith("application/problem+json")
    if status < 400 or (status in (404, 410) and not of_gateway):
        return NotRunningError(f"No gateway answers at this address (status {status}): check the address.")
    if status in (404, 410):
        return NotFoundError(sentence)
    return RejectedError(sentence, problem.get("code"), problem.get("field"))


def _headers(key: str | None) -> dict[str, str]:
    """The key, which the environment or a file may give with a line break behind it. Raises AccessError."""
    if key is None:
        return {}
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise AccessError(
            "The key of the gateway has blanks or other characters that no key has: copy it anew."
        )
    return {"Authorization": f"Bearer {key}"}


def _json(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise RejectedError(f"A field is no JSON: {error}.", "invalid") from None


def _quoted(name: str) -> str:
    return quote(name, safe="")
