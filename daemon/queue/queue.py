"""Typed calls on the queue's scripts: accept, claim, note, settle, renew, reclaim, and what is due.

The only file that knows what the scripts are asked; each of them is one atomic step and says in its header why.
All times are the Redis server's, in microseconds. Errors: whatever the Redis client raises; nothing is retried
here, because every step may be asked again safely by its caller (ids, fingerprints and epochs make it so).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from redis.asyncio import Redis

from daemon.queue.group_commit import Coalescer
from daemon.queue.keys import CACHED, INTAKE_GROUP, LANES, WORKERS_GROUP, Keys
from daemon.queue.messages import (
    FOREVER_US,
    Accepted,
    Answer,
    Changed,
    Claim,
    Claimed,
    GroupCounts,
    LeaseLost,
    NewItem,
    Noted,
    Opened,
    PartEnd,
    Reclaimed,
    Target,
    outcome_fields,
    read_claimed,
    read_counts,
    read_reclaimed,
)
from daemon.queue.outcomes import Outcome
from daemon.queue.steps import Steps

SETTLE_ROUND = 64  # items a settle call; keeps one script well below a millisecond or two


class Queue:
    """The queue of one installation, seen by one replica (or by a client that only cancels and retries)."""

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        worker: str,
        *,
        records_retention_s: float = 24 * 3600,
        failed_retention_s: float = 7 * 24 * 3600,
        max_backlog_per_tenant: int = 0,
    ) -> None:
        self.max_backlog_per_tenant = max_backlog_per_tenant  # items that may wait; 0: no cap
        self._client = client
        self._call = Steps(client, keys.prefix)
        self.keys = keys
        self.worker = worker
        self._retention = (round(records_retention_s * 1e6), round(failed_retention_s * 1e6))
        self._settles: Coalescer[tuple[Claimed, Outcome, str], str] = Coalescer(
            self._settle_round, most=SETTLE_ROUND
        )
        self._notes: Coalescer[tuple[Claimed, str, bytes], tuple[str, bytes]] = Coalescer(
            self._note_round, most=SETTLE_ROUND
        )

    # Intake

    async def accept(self, items: Sequence[NewItem], end: PartEnd | None = None) -> list[Accepted]:
        """Write and queue items (at most about 100 a call, to keep the script short); one state for each."""
        args: list[str | bytes | int | float] = [*self._retention, len(items)]
        for item in items:
            args += item[:8]
            args.append("" if item.not_before_us is None else item.not_before_us)
            args.append("" if item.expires_us is None else item.expires_us)
            args += (item.max_attempts, item.entry, item.cache)
        args += end if end is not None else ("",)
        args.append(self.max_backlog_per_tenant)
        return [state.decode() for state in await self._call("accept", *args)]

    async def open_group(
        self,
        gid: str,
        kind: Literal["batch", "job"],
        *,
        head: str,
        fingerprint: str,
        members: int,
        part: int = 1,
        parts: int = 1,
        route: str = "",
        max_in_flight: int | None = None,
        details: bytes = b"{}",
    ) -> Opened:
        """Begin a batch (or one part of it, or a job of several pictures); its items follow through `accept`."""
        cap = "" if max_in_flight is None else max_in_flight
        answer = await self._call(
            "open_batch",
            *self._retention,
            gid,
            kind,
            head,
            fingerprint,
            members,
            part,
            parts,
            cap,
            details,
            route,
            self.max_backlog_per_tenant,
        )
        opened: Opened = answer.decode()
        return opened

    async def refuse(
        self,
        entry: str,
        *,
        event: Literal["job.rejected", "job.duplicate"],
        head: str,
        batch: str,
        extra: str,
        reason: str = "",
        error: bytes = b"{}",
        kept: Iterable[tuple[str | bytes, str | bytes]] = (),
    ) -> bool:
        """End an intake entry that will not become work; False when another replica had ended it."""
        flat = [value for pair in kept for value in pair]
        return bool(await self._call("refuse", entry, event, head, batch, extra, reason, error, *flat))

    async def done(self, entry: str) -> None:
        """Take an intake entry off whose order has been carried out."""
        await self._call("done", entry)

    async def leave(self, routes: Iterable[str]) -> int:
        """Take this replica's consumer names off all groups in which nothing is pending under them."""
        left: int = await self._call("leave", self.worker, *self._groups(routes))
        return left

    async def forget(self, routes: Iterable[str], *, idle_s: float) -> int:
        """Take off all groups the names that asked for nothing for `idle_s` and have nothing pending; how many."""
        forgotten: int = await self._call("forget", round(idle_s * 1000), *self._groups(routes))
        return forgotten

    def _groups(self, routes: Iterable[str]) -> list[str]:
        """Pairs of stream and group."""
        groups: list[str] = [self.keys.jobs, INTAKE_GROUP]
        for route in routes:
            for lane in (*LANES, CACHED):
                groups += (self.keys.stream(route, lane), WORKERS_GROUP)
        return groups

    # Running

    async def claim(
        self, route: str, count: int, permits: Sequence[str] = (), lanes: Sequence[str] = LANES
    ) -> Claim:
        """Take up to `count` items of the route's queue, in its fair order."""
        args: list[str | int] = [route, self.worker, count, ",".join(lanes), *permits]
        more, lost, rows = await self._call("claim", *self._retention, *args)
        items = [read_claimed(row) for row in rows]
        if permits:
            items = [replace(item, permit=permit) for item, permit in zip(items, permits, strict=False)]
        return Claim(bool(more), lost, items)

    async def waiting(self, route: str, lanes: Sequence[str]) -> bool:
        """Whether an entry of the route waits to be claimed."""
        pipe = self._client.pipeline(transaction=False)
        for lane in lanes:
            pipe.exists(self.keys.ring(route, lane))
        return any(await pipe.execute())

    async def answer(self, item: Claimed) -> Answer:
        """What an item that was claimed from the lane `cached` is to be given."""
        entry, refusal, joined = await self._call("answer", item.uid)
        return Answer(entry, refusal, bool(joined))

    async def note_intent(self, item: Claimed) -> bytes:
        """Write down that a call is about to be sent. Raises LeaseLost: then nothing may be sent.

        Nor where it returns a receipt: that is of a task of the item which has come to light, to be polled instead.
        """
        verdict, receipt = await self._notes.submit((item, "intent", b""))
        if verdict == "lost":
            raise LeaseLost(f"{item.uid} was taken over by another worker")
        return receipt

    async def note_receipt(self, item: Claimed, receipt: bytes) -> Noted:
        """Write down the provider's task id (a JSON object), also where the item is somebody else's now."""
        verdict, _ = await self._notes.submit((item, "receipt", receipt))
        noted: Noted = verdict  # type: ignore[assignment]  # the script's header lists them
        return noted

    async def _note_round(self, notes: Sequence[tuple[Claimed, str, bytes]]) -> list[tuple[str, bytes]]:
        args: list[str | bytes | int | float] = [len(notes)]
        for item, what, text in notes:
            args += (item.uid, item.epoch, what, text)
        return [(verdict.decode(), receipt) for verdict, receipt in await self._call("note", *args)]

    async def settle(self, item: Claimed, outcome: Outcome, charged: str = "") -> str:
        """End a run, once: returns the item's state, or `lost` when it was not ours any more.

        `charged` (no, maybe, yes) goes to the item's account; empty where no call was begun. Asked again with the
        same outcome, as after a lost reply, it has the same answer.
        """
        return await self._settles.submit((item, outcome, charged))

    async def _settle_round(self, settles: Sequence[tuple[Claimed, Outcome, str]]) -> list[str]:
        args: list[str | bytes | int | float] = [*self._retention, len(settles)]
        for item, outcome, charged in settles:
            args += (item.uid, item.epoch, outcome.name, *outcome_fields(outcome), charged)
        return [state.decode() for state in await self._call("settle", *args)]

    async def renew(self, items: Sequence[Claimed]) -> list[str]:
        """Heartbeat for all items at once: `ours`, `lost` or `cancel` for each."""
        args: list[str | bytes | int | float] = [self.worker, len(items)]
        for item in items:
            args += (item.uid, item.epoch)
        return [state.decode() for state in await self._call("renew", *args)]

    async def probe(self) -> None:
        """Write a small key of our own, which ends by itself: whatever refuses work refuses this, too."""
        await self._call("probe")

    async def now_us(self) -> int:
        """The server's clock."""
        seconds, micros = await self._client.time()
        return int(seconds) * 1_000_000 + int(micros)

    async def server_uptime_s(self) -> float:
        """How long the server has been running."""
        info = await self._client.info("server")
        return float(info["uptime_in_seconds"])

    async def reclaim(
        self,
        route: str,
        lane: str,
        *,
        lease_s: float,
        cursor: str,
        not_after_us: int = FOREVER_US,
        count: int = 100,
        most_crashes: int = 5,
    ) -> Reclaimed:
        """Take over entries that nobody renewed for `lease_s`; keep the cursor for the next call.

        Nothing is taken when the server's clock is past `not_after_us`: the question was held up on its way.
        """
        lease_ms = round(lease_s * 1000)
        args = (route, lane, self.worker, lease_ms, cursor, count, most_crashes, not_after_us)
        next_cursor, rows, poisoned, calls = await self._call("reclaim", *self._retention, *args)
        charged = tuple(call.decode() for call in calls)
        return Reclaimed(next_cursor.decode(), [read_reclaimed(row) for row in rows], poisoned, charged)

    # Time

    async def due(self, most: int = 200) -> tuple[int, float | None]:
        """Bring due items to their queues; returns how many, and the seconds until the next one (None: nothing)."""
        moved, wait_us = await self._call("due", *self._retention, most)
        wait = int(wait_us)
        return moved, None if wait < 0 else wait / 1e6

    async def progress(self, *, most: int = 50, gap_s: float = 0.5) -> list[GroupCounts]:
        """Batches whose counts changed; at most one replica of the fleet gets each, at most every `gap_s`."""
        rows = await self._call("progress", most, round(gap_s * 1e6))
        return [read_counts(row) for row in rows]

    async def take_ended(self) -> dict[tuple[str, str], int]:
        """Items that ended outside of a run (cancel, expiry) since somebody last asked: how many by route and outcome.

        Each is told once, to one replica of the fleet; if that reply is lost, to nobody.
        """
        pipe = self._client.pipeline(transaction=True)
        pipe.hgetall(self.keys.ended)
        pipe.delete(self.keys.ended)
        fields, _ = await pipe.execute()
        rows = [(*field.decode().rsplit("|", 1), int(count)) for field, count in fields.items()]
        return {(route, outcome): count for route, outcome, count in rows}

    async def close_groups(self, page: int = 500) -> bool:
        """Start the retention clock of ended groups, one page a call; False when none is left.

        The clock of a group that a retry has opened again is stopped.
        """
        gid, _ = await self._call("close_groups", *self._retention, page)
        return bool(gid)

    # What people ask for

    async def cancel(self, kind: Target, name: str, states: Iterable[str], page: int = 500) -> Changed:
        """Cancel a group or an item: what waits ends, what runs is asked to stop."""
        first, ended, asked, meant = 0, 0, 0, ",".join(states)
        while first >= 0:
            state, first, page_ended, page_asked = await self._call(
                "cancel", *self._retention, kind, name, first, page, meant
            )
            if state != b"ok":
                return Changed(known=False, ended_or_queued=0)
            ended, asked = ended + page_ended, asked + page_asked
        return Changed(known=True, ended_or_queued=ended, asked=asked)

    async def retry(self, kind: Target, name: str, states: Iterable[str], page: int = 500) -> Changed:
        """Queue again what ended without a picture, or is held; what succeeded is never touched."""
        first, queued, wanted = 0, 0, ",".join(states)
        while first >= 0:
            state, first, page_queued = await self._call(
                "retry", *self._retention, kind, name, first, page, wanted
            )
            if state != b"ok":
                return Changed(known=False, ended_or_queued=0)
            queued += page_queued
        return Changed(known=True, ended_or_queued=queued)

    async def retry_letter(
        self, uid: str, letter: str, states: Sequence[str]
    ) -> Literal["queued", "unchanged", "unknown", "gone"]:
        """Queue the item of a dead letter again and take the letter off, in one step; asked twice, it happens once.

        `unchanged`: it is in none of `states` any more, and the letter is taken off. `unknown`: its record has ended,
        and the letter stays.
        """
        answer = await self._call("retry", *self._retention, "item", uid, 0, 1, ",".join(states), letter)
        state: Literal["ok", "unknown", "gone"] = answer[0].decode()
        if state != "ok":
            return state
        return "queued" if answer[2] else "unchanged"

    async def resend(self, letter: str, own_fields: int) -> bool:
        """Send a dead letter's original anew and take the letter off, in one step; False where it is not there.

        The last `own_fields` fields of the letter are not the original's.
        """
        return bool(await self._call("resend", letter, own_fields))
