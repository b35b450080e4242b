"""A replica's calls on the queue: accept, claim, note, settle, renew, reclaim, and what is due.

Each is one atomic step, a script whose header says why. All times are the Redis server's, in microseconds.
Errors: those of the Redis client. Nothing is repeated here; ids, fingerprints and epochs let callers repeat safely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Unpack

import structlog
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from daemon.queue.messages import (
    FOREVER_US,
    SCHEMA,
    Accepted,
    Answer,
    Claim,
    Claimed,
    LeaseLost,
    NewerSchemaError,
    NewGroup,
    NewItem,
    Noted,
    Opened,
    PartEnd,
    PermitRequest,
    Reclaimed,
    Serving,
)
from daemon.queue.outcomes import Outcome
from daemon.queue.steps import GroupCommit, Steps, report_of
from pixmill.records.counts import GroupCounts
from pixmill.records.keys import CACHED, INTAKE_GROUP, LANES, WORKERS_GROUP, Keys

log = structlog.get_logger(__name__)

NO_JOURNAL: Mapping[int, bytes] = MappingProxyType({})
_CLAIMED = TypeAdapter(Claimed)
_FIELDS = tuple(Claimed.__slots__)
_CLAIMED_FIELDS = tuple(name for name in _FIELDS if name != "via")  # the claimer knows its account


class Queue:
    """The queue of one installation as the replica `worker` sees it."""

    def __init__(
        self, client: Redis, keys: Keys, worker: str, *, max_backlog_per_tenant: int = 0, calm_s: float = 0
    ) -> None:
        self.max_backlog_per_tenant = max_backlog_per_tenant  # items that may wait; 0: no cap
        self._calm_us = round(calm_s * 1e6)  # without claims, after a restart or failover of Redis
        self._client = client
        self._call = Steps(client, keys.prefix)
        self.keys = keys
        self.worker = worker
        self._settles = GroupCommit[dict[str, Any], str](self._settle_round)
        self._notes = GroupCommit[dict[str, Any], tuple[str, bytes]](self._note_round)

    # The installation

    async def check_schema(self) -> None:
        """Raises NewerSchemaError if a newer version wrote the records; writes nothing."""
        found: Any = self._client.hget(self.keys.installation, "schema")
        self._refuse_newer(int(await found or 0))

    async def install(
        self, *, records_s: float, failed_s: float, starts: bool, configured: str = "{}"
    ) -> str:
        """Write the schema and how long records are kept (after a success, after another end), in seconds.

        `configured` has the routes and quotas of the replica as JSON, for commands that have no configuration.
        A replica that `starts` replaces what others wrote; later it only restores what was lost.
        Returns the present life of the server, '' if it hides that; another life may lack the last writes.
        Raises NewerSchemaError, and writes no schema, if a newer version wrote the records.
        """
        retention = {"records_us": round(records_s * 1e6), "failed_us": round(failed_s * 1e6)}
        given = {"schema": SCHEMA, "starts": starts, "configured": configured}
        found, life = await self._call("install", **given, **retention)
        self._refuse_newer(found)
        return str(life.decode())

    def _refuse_newer(self, found: int) -> None:
        if found > SCHEMA:
            raise NewerSchemaError(found)

    async def leave(self, routes: Iterable[str]) -> int:
        """Remove this replica's consumer names from all groups in which they have nothing pending."""
        left: int = await self._call("forget", worker=self.worker, groups=self._groups(routes))
        return left

    async def forget(self, routes: Iterable[str], *, idle_s: float) -> int:
        """Remove the consumer names that read nothing for `idle_s` and have nothing pending; returns how many."""
        groups = self._groups(routes)
        forgotten: int = await self._call("forget", idle_ms=round(idle_s * 1000), groups=groups)
        return forgotten

    def _groups(self, routes: Iterable[str]) -> list[tuple[str, str]]:
        """Pairs of stream and consumer group."""
        ready = [self.keys.stream(route, queue) for route in routes for queue in (*LANES, CACHED)]
        return [(self.keys.jobs, INTAKE_GROUP), *((stream, WORKERS_GROUP) for stream in ready)]

    async def take_recount(self, turn_s: float) -> bool:
        """Whether this replica has the recount of the fleet; no other one has it for `turn_s`."""
        return bool(await self._client.set(self.keys.recount, self.worker, nx=True, px=round(turn_s * 1000)))

    async def recount_route(self, route: str, *, most: int) -> int:
        """Put wrong counts of a route's waiting and running work right; returns how many. `most`: items that wait."""
        wrong, _ = await self._call("recount", route=route, queues=(*LANES, CACHED), most=most)
        return int(wrong)

    async def recount_groups(self, first: int, *, most: int) -> tuple[int, int]:
        """Put wrong counts of running groups right, from the group of rank `first`, with `most` records in all.

        Returns how many counts were wrong, and the rank of the next group, -1 at the end.
        """
        wrong, following = await self._call("recount", **{"from": first}, most=most)
        return int(wrong), int(following)

    async def now_us(self) -> int:
        """The server's clock."""
        seconds, micros = await self._client.time()
        return int(seconds) * 1_000_000 + int(micros)

    async def server_uptime_s(self) -> float:
        """How long the server has been running."""
        info = await self._client.info("server")
        return float(info["uptime_in_seconds"])

    # Intake

    async def accept(
        self, items: Sequence[NewItem], end: PartEnd | None = None, entry: str | None = None
    ) -> list[Accepted]:
        """Write and queue items, about 32 a call at most so that the script stays short; one state for each.

        `entry` is the intake entry of all items.
        """
        given = [{k: v for k, v in item._asdict().items() if v is not None and k != "spec"} for item in items]
        specs = [item.spec for item in items]
        part_end = end and end._asdict()
        states = await self._call(
            "accept",
            *specs,
            items=given,
            part_end=part_end,
            cap=self.max_backlog_per_tenant,
            **{"from": entry},
        )
        return [state.decode() for state in states]

    async def open_group(
        self,
        gid: str,
        kind: Literal["batch", "job"],
        journal: Mapping[int, bytes] = NO_JOURNAL,
        **group: Unpack[NewGroup],
    ) -> Opened:
        """Begin a batch (or one part of it, or a job of several pictures); its items follow through `accept`.

        `journal` has the entries of the parts that no jobs stream has: the type, a blank and the data.
        """
        cap, parts = self.max_backlog_per_tenant, list(journal)
        given = {"gid": gid, "kind": kind, **group, "cap": cap, "journal": parts or None}
        reply = await self._call("open_batch", *journal.values(), **given)
        opened: Opened = reply.decode()
        return opened

    async def refuse(
        self,
        entry: str,
        *,
        event: Literal["job.rejected", "job.duplicate"],
        head: str,
        batch: str,
        extra: str | None = None,
        reason: str | None = None,
        error: bytes = b"{}",
        kept: Iterable[tuple[str | bytes, str | bytes]] = (),
    ) -> bool:
        """End an intake entry that will not become work; False if another replica had ended it."""
        flat = [value for pair in kept for value in pair]
        given = {"entry": entry, "event": event, "head": head, "batch": batch, "extra": extra}
        return bool(await self._call("refuse", *flat, **given, reason=reason, error=error))

    async def end_order(self, entry: str) -> None:
        """Remove the intake entry of an order that has been carried out."""
        await self._call("end_order", entry=entry)

    # Running

    async def claim(
        self,
        route: str,
        count: int,
        permits: Sequence[str] = (),
        queues: Sequence[str] = LANES,
        *,
        intends: bool = False,
        request: PermitRequest | None = None,
        serving: Serving | None = None,
    ) -> Claim:
        """Take up to `count` items of the route's queues, in fair order; `permits` holds one permit for each.

        `serving` is the part of the caller's account, if several accounts serve the route.

        With a `request` the permit of one item is requested in the same step, and the item is taken if its slot is now.
        `intends`: the items start at once, so those that need no preparation have their intent noted.
        """
        given = {"route": route, "worker": self.worker, "count": count, "queues": queues, "permits": permits}
        given |= {"intends": intends or None, "fields": _CLAIMED_FIELDS, "calm_us": self._calm_us}
        script = "claim"
        if serving is not None:
            script, given = "claim_shared", given | serving._asdict()
        if request is None:
            reply = await self._call(script, **given)
        else:
            given |= {"permits": [request.permit], "early_us": round(request.early_s * 1e6)}
            reply = await self._call.run(script, request.keys, request.args, given)
        more, lost, rows, calm_us, requested = reply
        return Claim(bool(more), lost, list(_readable(rows, _CLAIMED_FIELDS)), int(calm_us) / 1e6, requested)

    async def unclaim(self, route: str, known: Sequence[tuple[str, str]], via: str | None = None) -> int:
        """Release what this replica claimed without a reply, from the route's lanes; returns how many items.

        `known` has uid and epoch of what it runs, or has settled a short time ago. `via` is the claiming account, if
        several serve the route.
        """
        given = {"route": route, "worker": self.worker, "queues": LANES, "known": known, "via": via}
        return int(await self._call("unclaim", **given))

    async def note_unfit(self, item: Claimed, via: str) -> None:
        """Note that the spare `via` cannot make the item, so it waits for its own route. Then release it."""
        await self._call("unfit", uid=item.uid, epoch=item.epoch, via=via)

    async def asides(self) -> list[tuple[str, str]]:
        """The lists of items that wait aside: pairs of route and account."""
        found: Any = await self._client.hgetall(self.keys.asides)
        return sorted(tuple(name.decode().split("|")) for name in found)

    async def take_back(self, pairs: Sequence[tuple[str, str]], most: int = 100) -> int:
        """Queue what waited aside for accounts that serve again: pairs of route and account; returns how many items."""
        return int(await self._call("take_back", pairs=pairs, most=most))

    async def waiting(self, route: str, queues: Sequence[str]) -> bool:
        """Whether an entry of the route waits to be claimed."""
        pipe = self._client.pipeline(transaction=False)
        for queue in queues:
            pipe.exists(self.keys.ring(route, queue))
        return any(await pipe.execute())

    async def answer(self, item: Claimed) -> Answer:
        """The picture or refusal that an item of the queue `cached` gets without a call."""
        entry, refusal, joined = await self._call("answer", uid=item.uid)
        return Answer(entry, refusal, bool(joined))

    async def note_intent(self, item: Claimed) -> bytes:
        """Write down that a call is about to be sent. Raises LeaseLost: then nothing may be sent.

        If it returns a receipt, send nothing either: the item already has that task, and the task is polled.
        """
        verdict, receipt = await self._notes.submit(_note(item, "intent"))
        if verdict == "lost":
            raise LeaseLost(f"{item.uid} was taken over by another worker")
        return receipt

    async def note_receipt(self, item: Claimed, receipt: bytes) -> Noted:
        """Write down the provider's task id (a JSON object), even if another worker owns the item now."""
        verdict, _ = await self._notes.submit({**_note(item, "receipt"), "text": receipt})
        noted: Noted = verdict  # type: ignore[assignment]  # the script's header lists them
        return noted

    async def note_remains(self, item: Claimed, receipt: bytes) -> str:
        """Hand in a call, and its receipt or b"", of a run whose claim Redis has lost; `lost` if it did not lose it."""
        verdict, _ = await self._notes.submit({**_note(item, "remains"), "text": receipt})
        return verdict

    async def _note_round(self, notes: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
        return [(verdict.decode(), receipt) for verdict, receipt in await self._call("note", notes=notes)]

    async def settle(self, item: Claimed, outcome: Outcome, charged: str = "") -> str:
        """End a run, once: returns the item's state, or `lost` if another worker owns the item.

        `charged` (no, maybe, yes) goes to the item's account; it is empty if no call was begun. A repeated call with
        the same outcome, as after a lost reply, has the same reply.
        """
        return await self.settle_report(report_of(item, outcome, charged))

    async def settle_report(self, report: dict[str, Any]) -> str:
        """The same as `settle`, for a report that `report_of` has made."""
        return await self._settles.submit(report)

    async def _settle_round(self, reports: Sequence[dict[str, Any]]) -> list[str]:
        return [state.decode() for state in await self._call("settle", reports=reports)]

    async def renew(self, items: Sequence[Claimed], noted: Sequence[str] = ()) -> list[str]:
        """Heartbeat for all items at once: `ours`, `lost`, `cancel` or `bare` for each.

        `noted` names for each the field that its run has written: intent_us, receipt or ''.
        """
        rows = zip(items, noted or [""] * len(items), strict=True)
        pairs = [(item.uid, item.epoch, field) for item, field in rows]
        return [state.decode() for state in await self._call("renew", worker=self.worker, items=pairs)]

    async def reclaim(
        self,
        route: str,
        queue: str,
        *,
        lease_s: float,
        cursor: str,
        not_after_us: int = FOREVER_US,
        count: int = 100,
        most_crashes: int = 5,
    ) -> Reclaimed:
        """Take over entries that no worker renewed for `lease_s`; pass the returned cursor to the next call.

        Takes nothing if the server's clock is past `not_after_us`, since the call was then held up on its way.
        """
        given = {"route": route, "queue": queue, "worker": self.worker, "count": count, "cursor": cursor}
        limits = {"most_crashes": most_crashes, "not_after_us": not_after_us}
        reply = await self._call("reclaim", **given, **limits, lease_ms=round(lease_s * 1000), fields=_FIELDS)
        next_cursor, rows, poisoned, calls = reply
        charged = tuple(call.decode() for call in calls)
        return Reclaimed(next_cursor.decode(), list(_readable(rows, _FIELDS)), poisoned, charged)

    # Time

    async def due(self, most: int = 40) -> tuple[int, float | None]:
        """Queue items that are due; returns how many, and the seconds until the next one (None: there is none)."""
        moved, wait_us = await self._call("due", most=most)
        return moved, None if int(wait_us) < 0 else int(wait_us) / 1e6

    async def progress(self, *, most: int = 50, gap_s: float = 0.5) -> list[GroupCounts]:
        """Take batches whose counts changed; one replica of the fleet gets each, at most every `gap_s`."""
        rows = await self._call("progress", most=most, gap_us=round(gap_s * 1e6))
        return [GroupCounts(gid.decode(), head.decode(), *map(int, counts)) for gid, head, *counts in rows]

    async def take_ended(self) -> dict[tuple[str, str], int]:
        """Take the counts, by route and outcome, of items that ended outside of a run (cancel, expiry).

        One replica of the fleet gets each count; a lost reply loses it.
        """
        pipe = self._client.pipeline(transaction=True)
        pipe.hgetall(self.keys.ended)
        pipe.delete(self.keys.ended)
        fields, _ = await pipe.execute()
        rows = [(*field.decode().rsplit("|", 1), int(count)) for field, count in fields.items()]
        return {(route, outcome): count for route, outcome, count in rows}

    async def close_groups(self, page: int = 500) -> bool:
        """Start the retention clock of ended groups, one page a call; False if none is left.

        The clock of a group stops if a retry has opened it again.
        """
        return bool(await self._call("close_groups", page=page))


def _note(item: Claimed, what: Literal["intent", "receipt", "remains"]) -> dict[str, Any]:
    return {"uid": item.uid, "epoch": item.epoch, "what": what}


def _readable(rows: Iterable[Sequence[Any]], fields: Sequence[str]) -> Iterator[Claimed]:
    """The items of a claim, each alone: one record that cannot be read must not hide the others, which are ours now."""
    for row in rows:
        record = {name: value for name, value in zip(fields, row, strict=True) if value is not None}
        try:
            yield _CLAIMED.validate_python(record)
        except ValidationError as error:
            wrong = ", ".join(str(part["loc"][0]) for part in error.errors())
            log.error(  # noqa: TRY400 - the exception quotes values, which may be private
                "a record cannot be read, so its item does not run; after some reclaims it is a dead letter",
                item=record["uid"].decode(),
                fields=wrong,
            )
