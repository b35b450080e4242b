"""The summary of a batch: how well it went, how fast, what it cost, and why items failed; and its log, item by item."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
from redis.asyncio import Redis

from pixmill.broker.streams import ranked
from pixmill.records.keys import Keys
from pixmill.records.records import PAGE, GroupView, ItemView, Records

FRESH_S = 2.0  # a batch under way is read again after this time
REMEMBERED = 1000


@dataclass(slots=True)
class _Ledger:
    """The sums over the records of a batch's items."""

    cost: dict[str, Decimal] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, uid: str, state: bytes, error: bytes, result: bytes) -> None:
        for text in (error, result):
            if text and (cost := orjson.loads(text).get("cost")):
                currency = str(cost["currency"])
                self.cost[currency] = self.cost.get(currency, Decimal(0)) + Decimal(cost["amount"])
        if state == b"failed":
            why = orjson.loads(error or b"{}")
            kind = str(why.get("kind"))
            self.kinds[kind] += 1
            self.examples.setdefault(kind, {"item": uid.rpartition("/")[2], "message": why.get("message")})

    def as_dict(self) -> dict[str, Any]:
        failures = [
            {"kind": kind, "count": count, "example": self.examples[kind]}
            for kind, count in self.kinds.most_common()
        ]
        return {"cost": {name: f"{amount:f}" for name, amount in self.cost.items()}, "failures": failures}


class Summaries:
    """Makes summaries; a batch is read again only when its counts have changed, and not every time while it runs."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._known: OrderedDict[str, tuple[object, float, dict[str, Any]]] = OrderedDict()

    async def of(self, batch: GroupView) -> dict[str, Any]:
        """The summary of a batch; `success_rate` is the share of its ended items, None before the first end."""
        return {**pace(batch), **await self._read_once(batch)}

    async def _read_once(self, batch: GroupView) -> dict[str, Any]:
        version = (batch.accepted_at, batch.counts)
        known = self._known.get(batch.gid)
        if known is not None and (
            known[0] == version or (not batch.ended and time.monotonic() - known[1] < FRESH_S)
        ):
            return known[2]
        made = (await self._read(batch)).as_dict()
        self._known[batch.gid] = version, time.monotonic(), made
        self._known.move_to_end(batch.gid)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return made

    async def _read(self, batch: GroupView) -> _Ledger:
        ledger = _Ledger()
        rank, uids = 0, ["first"]
        while uids:
            uids = await ranked(self._client, self._keys.members(batch.gid), rank, PAGE)
            pipe = self._client.pipeline(transaction=False)
            for uid in uids:
                pipe.hmget(self._keys.item(uid), "state", "error", "result")
            for uid, (state, error, result) in zip(uids, await pipe.execute(), strict=True):
                ledger.add(uid, state, error, result)
            rank += len(uids)
        return ledger


def pace(batch: GroupView) -> dict[str, Any]:
    """How well and how fast a batch went, by its counts alone."""
    counts = batch.counts
    seconds = ((batch.finished_at or datetime.now(UTC)) - batch.accepted_at).total_seconds()
    return {
        "success_rate": round(counts.succeeded / counts.ended, 4) if counts.ended else None,
        "seconds": round(seconds, 3),
        "pictures_per_minute": round(counts.succeeded * 60 / seconds, 2) if seconds > 0 else 0.0,
    }


async def log_of(records: Records, batch: GroupView) -> dict[str, Any]:
    """The log of a batch as of a session: each item with its time, also one that failed, and the whole."""
    items = [_logged(item) async for page in records.pages(batch.gid) for item in page]
    times = [item["seconds"] for item in items if item["seconds"] is not None]
    counts = batch.counts
    whole, record = pace(batch), batch.as_dict()
    return {
        "session_id": batch.metadata.get("session_id", batch.id),
        **{name: record[name] for name in ("tenant", "state", "accepted_at", "finished_at", "metadata")},
        "total": counts.total,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "success_rate": whole["success_rate"],
        "seconds": whole["seconds"],
        "mean_seconds": round(sum(times) / len(times), 3) if times else None,
        "items": items,
    }


def _logged(item: ItemView) -> Mapping[str, Any]:
    """`seconds` are those of the item's last run."""
    run_s = None
    if item.started_at is not None and item.finished_at is not None:
        run_s = round((item.finished_at - item.started_at).total_seconds(), 3)
    error = item.error or {}
    record = item.as_dict()
    return {
        "id": item.id,
        "state": item.state,
        "started_at": record["started_at"],
        "finished_at": record["finished_at"],
        "seconds": run_s,
        "attempts": item.attempts,
        "error": error.get("message"),
        "error_kind": error.get("kind"),
    }
