"""From a job or a batch to entries of the jobs stream, and what became of them there.

A batch that is too large for one entry goes as `parts`, all added in one transaction: all of them or none.
The acceptance is read from the events since that moment, and is complete when intake has taken the entries off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from daemon.broker.streams import after
from daemon.contract import BATCH_TYPE, JOB_TYPE, Job, Rejection, parse_payload
from daemon.contract.batches import ITEMS_MAX
from daemon.queue.keys import Keys, batch_gid, job_gid

PART_BYTES = 200 * 1024  # of at most 256 KiB an entry; the rest is room for attributes
MOST_PARTS = 1000
ACCEPT_LOOK_S = 0.05
EVENTS_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Sent:
    """What was added to the jobs stream: its entries, and where the events stood before."""

    kind: Literal["job", "batch"]
    tenant: str
    id: str
    items: int
    entries: tuple[str, ...]
    events_from: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What intake said. `unread`: nobody has taken all of the entries yet; they stay in the stream.

    `lost`: they are gone and there is no record, as when somebody trims or empties the stream.
    """

    state: Literal["accepted", "duplicate", "rejected", "unread", "lost"]
    code: str | None = None
    message: str | None = None
    field: str | None = None


class RejectedError(Exception):
    """Intake refused a job or a batch; the text is its sentence, `code` and `field` are for programs."""

    def __init__(self, acceptance: Acceptance) -> None:
        super().__init__(acceptance.message or "The job was rejected.")
        self.code = acceptance.code
        self.field = acceptance.field


def job_fields(job: Job | Mapping[str, Any]) -> dict[str, Any]:
    """A job's fields as JSON has them; raises Rejection when the contract does not allow them."""
    fields = orjson.loads(job.to_spec()) if isinstance(job, Job) else dict(job)
    parse_payload(orjson.dumps(fields), JOB_TYPE)
    return fields


def batch_parts(
    batch: Mapping[str, Any], items: Sequence[Mapping[str, Any]], *, part_bytes: int = PART_BYTES
) -> list[bytes]:
    """The entries' JSON for a batch of any size; raises Rejection.

    `batch` has what the parts share (id, tenant, defaults, max_in_flight, callback, metadata). The same items
    are always cut at the same places, so a batch that is sent twice is recognised part by part.
    """
    if not items:
        raise Rejection("invalid", "A batch needs at least one item.", field="items")
    check_ids(items, batch.get("defaults") or {})
    bare = {**batch, "items": [], "part": MOST_PARTS, "parts": MOST_PARTS}
    room = part_bytes - len(orjson.dumps(bare))
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
        raise Rejection(
            "too_large", f"The batch needs {len(chunks)} parts; {MOST_PARTS} are the most.", field="items"
        )
    return [_part(batch, chunk, index + 1, len(chunks)) for index, chunk in enumerate(chunks)]


def check_ids(items: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
    """Refuse a batch in which two items, or one and a picture of another, share an id: in all of its parts."""
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        ident, n = item.get("id"), item.get("n", defaults.get("n", 1))
        if not isinstance(ident, str) or not isinstance(n, int):
            continue  # no such item passes the checks of the contract
        for taken in ids_of(ident, n):
            if (first := seen.setdefault(taken, index)) != index:
                raise Rejection(
                    "invalid",
                    f'Items {first + 1} and {index + 1} share the id "{taken}"; ids must be unique in a batch.',
                    field=f"items.{index}.id",
                )


def ids_of(ident: str, n: int) -> list[str]:
    """Every id that a job of `n` pictures takes: its own, and its pictures' when there are several."""
    return [ident] if n == 1 else [ident, *(f"{ident}.{k}" for k in range(n))]


class Sender:
    """Adds to the jobs stream. Every XADD is sent once: a lost reply is an error for the caller, not a repeat."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def job(self, job: Job | Mapping[str, Any]) -> Sent:
        """Send one job."""
        fields = job_fields(job)
        return await self._send("job", fields, fields.get("n", 1), JOB_TYPE, [orjson.dumps(fields)])

    async def batch(self, batch: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Sent:
        """Send a batch, in as many parts as it needs."""
        return await self._send("batch", batch, len(items), BATCH_TYPE, batch_parts(batch, items))

    async def acceptance(self, sent: Sent, timeout_s: float = 10.0) -> Acceptance:
        """What became of what was sent, as soon as intake has taken all of it off.

        Two producers that send one id in the same moment may each be told what the other one's became.
        """
        deadline = time.monotonic() + timeout_s
        told = Acceptance("accepted")
        last = sent.events_from
        while True:
            # Asked before the events are read: what is off the stream by now has had its event.
            waiting = await self._waiting(sent.entries)
            while True:
                rows = await after(self._client, self._keys.events, last, EVENTS_PAGE)
                for entry, fields in rows:
                    told = _heavier(told, _verdict(fields, sent))
                    last = entry
                if len(rows) < EVENTS_PAGE:
                    break
            if told.state == "rejected" or not waiting:
                known = told.state != "accepted" or await self._recorded(sent)
                return told if known else Acceptance("lost")
            if time.monotonic() > deadline:
                return Acceptance("unread")
            await asyncio.sleep(ACCEPT_LOOK_S)

    async def _send(
        self,
        kind: Literal["job", "batch"],
        fields: Mapping[str, Any],
        items: int,
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
            items,
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
        if sent.kind == "batch":
            names = [keys.group(batch_gid(sent.tenant, sent.id))]
        else:
            gid = job_gid(sent.tenant, sent.id)
            names = [keys.group(gid), keys.item(gid)]
        return bool(await self._client.exists(*names))


def _part(batch: Mapping[str, Any], items: Sequence[Mapping[str, Any]], part: int, parts: int) -> bytes:
    numbering = {"part": part, "parts": parts} if parts > 1 else {}
    data = orjson.dumps({**batch, "items": items, **numbering})
    parse_payload(data, BATCH_TYPE)
    return data


def _verdict(fields: Mapping[bytes, bytes], sent: Sent) -> Acceptance | None:
    kind = fields.get(b"type", b"")
    if kind not in (b"job.rejected", b"job.duplicate"):
        return None
    data = orjson.loads(fields[b"data"])
    if data.get("job") not in (sent.id, *sent.entries) or data.get("tenant") != sent.tenant:
        return None
    if kind == b"job.duplicate":
        return Acceptance("duplicate")
    return Acceptance("rejected", data.get("code"), data.get("message"), data.get("field"))


_WEIGHT = {"accepted": 0, "duplicate": 1, "rejected": 2}


def _heavier(told: Acceptance, verdict: Acceptance | None) -> Acceptance:
    """Of several parts the worst counts."""
    return verdict if verdict is not None and _WEIGHT[verdict.state] > _WEIGHT[told.state] else told
