"""Sends a job or a batch as entries of the jobs stream, and reads intake's reply.

A batch that is too large for one entry goes as `parts`, all added in one transaction: all of them or none.
The reply is read from the events since that moment, and is complete when intake has taken the entries off.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from pixmill.broker.streams import after
from pixmill.contract import BATCH_TYPE, JOB_TYPE, Job, Rejection, parse_payload
from pixmill.contract.batches import ITEMS_MAX, TakenIds
from pixmill.contract.jobs import MOST_PICTURES
from pixmill.errors import RejectedError
from pixmill.records.keys import Keys, batch_gid, job_gid

PART_BYTES = 200 * 1024  # of at most 256 KiB an entry; the rest is room for attributes
MOST_PARTS = 1000
ACCEPT_LOOK_S = 0.05
EVENTS_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Sent:
    """A job or batch that was added to the jobs stream: its entries, and where the events stood before."""

    kind: Literal["job", "batch", "order"]
    tenant: str
    id: str
    entries: tuple[str, ...]
    events_from: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Intake's reply. `unread`: no worker has taken all of the entries yet; they stay in the stream.

    `lost`: they are gone and there is no record, as when a producer trims or empties the stream. `is_partial`: one part
    of a batch is refused, and others of the same sending may run.
    """

    state: Literal["accepted", "duplicate", "rejected", "unread", "lost"]
    code: str | None = None
    message: str | None = None
    field: str | None = None
    is_partial: bool = False

    def unless_rejected(self) -> Acceptance:
        """The same; raises RejectedError for a refusal."""
        if self.state == "rejected":
            raise RejectedError(
                self.message or "The job was rejected.", self.code, self.field, is_partial=self.is_partial
            )
        return self


def batch_parts(
    batch: Mapping[str, Any], items: Sequence[Mapping[str, Any]], *, part_bytes: int = PART_BYTES
) -> list[bytes]:
    """The entries' JSON for a batch of any size; raises Rejection.

    `batch` has the shared fields of the parts (id, tenant, defaults, max_in_flight, callback, metadata). The same items
    are always cut at the same places, so a batch that is sent twice is recognised part by part.
    """
    if not items:
        raise Rejection("invalid", "A batch needs at least one item.", field="items")
    _check_ids(items, batch.get("defaults") or {})
    room = part_bytes - len(orjson.dumps({**batch, "items": [], "part": MOST_PARTS, "parts": MOST_PARTS}))
    chunks: list[list[Mapping[str, Any]]] = [[]]
    used = 0
    for item in items:
        size = len(orjson.dumps(item)) + 1
        if chunks[-1] and (len(chunks[-1]) == ITEMS_MAX or used + size > room):
            chunks.append([])
            used = 0
        chunks[-1].append(item)
        used += size
    if len(chunks) > MOST_PARTS:
        message = f"The batch needs {len(chunks)} parts; {MOST_PARTS} are the most."
        raise Rejection("too_large", message, field="items")
    parts, before = [], 0
    for part, chunk in enumerate(chunks, 1):
        numbering = {"part": part, "parts": len(chunks)} if len(chunks) > 1 else {}
        parts.append(orjson.dumps({**batch, "items": chunk, **numbering}))
        with items_from(before):
            parse_payload(parts[-1], BATCH_TYPE)
        before += len(chunk)
    return parts


@contextmanager
def items_from(first: int) -> Iterator[None]:
    """Let a refusal of a part name its items as the whole batch counts them: the part's first one is item `first`."""

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) + first}"

    try:
        yield
    except Rejection as rejection:
        if first:
            rejection.field = rejection.field and _ITEM.sub(number, rejection.field)
            rejection.message = _ITEM.sub(number, rejection.message)
            rejection.sentences = tuple(_ITEM.sub(number, text) for text in rejection.sentences)
        raise


_ITEM = re.compile(r"(?<![\w.])(items\.)(\d+)")


def _check_ids(items: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
    """Refuse a batch in which two items share an id, also when they are in different parts."""
    ids = TakenIds()
    for number, item in enumerate(items, 1):
        ident, n = item.get("id"), item.get("n", defaults.get("n", 1))
        if not isinstance(ident, str) or not isinstance(n, int) or not 1 <= n <= MOST_PICTURES:
            continue  # such an item does not pass the checks of the contract; a huge `n` would fill the memory
        if clash := ids.add(ident, n, number):
            taken, first = clash
            raise Rejection(
                "invalid",
                f'Items {first} and {number} share the id "{taken}"; ids must be unique in a batch.',
                field=f"items.{number - 1}.id",
            )


class Sender:
    """Adds to the jobs stream. Every XADD is sent once: a lost reply is an error for the caller, not a repeat."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def job(self, job: Job | Mapping[str, Any]) -> Sent:
        """Send one job; raises Rejection when the contract does not allow it."""
        fields = orjson.loads(job.to_spec()) if isinstance(job, Job) else job
        data = orjson.dumps(fields)
        parse_payload(data, JOB_TYPE)
        return await self._send("job", fields, JOB_TYPE, [data])

    async def batch(self, batch: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Sent:
        """Send a batch, in as many parts as it needs; raises Rejection when the contract does not allow it."""
        return await self._send("batch", batch, BATCH_TYPE, batch_parts(batch, items))

    async def order(self, type_: str, fields: Mapping[str, Any], name: str) -> Sent:
        """Send a cancel or a retry of the work of this name; raises Rejection when the contract does not allow it."""
        data = orjson.dumps(fields)
        parse_payload(data, type_)
        return await self._send("order", {**fields, "id": name}, type_, [data])

    async def acceptance(self, sent: Sent, timeout_s: float = 10.0) -> Acceptance:
        """Intake's reply, once it has taken all entries off.

        Two producers that send one id in the same moment may each get the reply to the other one.
        """
        deadline = time.monotonic() + timeout_s
        worst = Acceptance("accepted")
        last = sent.events_from
        in_parts, is_known = len(sent.entries) > 1, False
        while True:
            # Read before the events: an entry that is off the stream by now has had its event.
            waiting = await self._waiting(sent.entries)
            rows = None
            while rows is None or len(rows) == EVENTS_PAGE:
                rows = await after(self._client, self._keys.events, last, EVENTS_PAGE)
                for entry, fields in rows:
                    answer = _answer(fields, sent)
                    worst = max(worst, answer, key=lambda answer: _WEIGHT[answer.state])
                    is_known = is_known or answer.state == "duplicate" or answer.code == "id_conflict"
                    last = entry
            # The other parts of a refused one are awaited: whatever runs of them is known then.
            if worst.state == "rejected" and (not in_parts or not waiting or time.monotonic() > deadline):
                return replace(worst, is_partial=in_parts and not is_known)
            if not waiting:
                known = worst.state != "accepted" or await self._recorded(sent)
                return worst if known else Acceptance("lost")
            if time.monotonic() > deadline:
                return Acceptance("unread")
            await asyncio.sleep(ACCEPT_LOOK_S)

    async def _send(
        self,
        kind: Literal["job", "batch", "order"],
        fields: Mapping[str, Any],
        type_: str,
        entries: list[bytes],
    ) -> Sent:
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.xrevrange(self._keys.events, count=1)
            for data in entries:
                pipe.xadd(self._keys.jobs, {"type": type_, "data": data})
            newest, *added = await pipe.execute()
        return Sent(
            kind,
            str(fields.get("tenant", "default")),
            str(fields["id"]),
            tuple(entry.decode() for entry in added),
            newest[0][0].decode() if newest else "0-0",
        )

    async def _waiting(self, entries: Sequence[str]) -> bool:
        pipe = self._client.pipeline(transaction=False)
        for entry in entries:
            pipe.xrange(self._keys.jobs, entry, entry, count=1)
        return any(await pipe.execute())

    async def _recorded(self, sent: Sent) -> bool:
        keys = self._keys
        if sent.kind == "order":
            return True
        if sent.kind == "batch":
            names = [keys.group(batch_gid(sent.tenant, sent.id))]
        else:
            gid = job_gid(sent.tenant, sent.id)
            names = [keys.group(gid), keys.item(gid)]
        return bool(await self._client.exists(*names))


_NUMBERED = re.compile(r"(?<![\w.])items\.\d+\.?")


def _unnumbered(found: re.Match[str]) -> str:
    return "" if found[0].endswith(".") else "items"


_WEIGHT = {"accepted": 0, "duplicate": 1, "rejected": 2}


def _answer(fields: Mapping[bytes, bytes], sent: Sent) -> Acceptance:
    """The reply in one event; `accepted` for an event about other entries."""
    kind = fields.get(b"type", b"")
    if kind in (b"job.rejected", b"job.duplicate"):
        data = orjson.loads(fields[b"data"])
        if data.get("job") in (sent.id, *sent.entries) and data.get("tenant") == sent.tenant:
            if kind == b"job.duplicate":
                return Acceptance("duplicate")
            message, field = data.get("message"), data.get("field")
            if len(sent.entries) > 1:  # the numbers of a part are not those of the batch; ids are
                message, field = (text and _NUMBERED.sub(_unnumbered, text) for text in (message, field))
            return Acceptance("rejected", data.get("code"), message, field)
    return Acceptance("accepted")
