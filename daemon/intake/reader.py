"""Reads the jobs stream: validates, refuses, deduplicates and expands. Each entry ends in exactly one way.

Jobs of one picture go in rounds, one script call per round. Batches go in chunks, so that no script runs long. An
entry leaves the stream only with its last chunk, so an expansion that a crash interrupts is resumed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from daemon.broker.loops import run_forever, wait_for_event
from daemon.intake.acceptance import CONFLICT, Acceptor, Verdict, batch_head, cloud_event, job_head
from daemon.intake.orders import carry_out
from daemon.intake.refusals import Refusals
from daemon.queue.messages import NewItem
from daemon.queue.orders import Orders
from daemon.queue.queue import Queue
from daemon.telemetry.metrics import Metrics
from pixmill.broker.streams import read_new
from pixmill.contract import (
    Batch,
    Cancel,
    Job,
    PayloadTypes,
    Rejection,
    RetryRequest,
    parse_entry,
)
from pixmill.records.keys import INTAKE_GROUP, Keys, Uid

log = structlog.get_logger(__name__)

ROUND = 32  # entries per read
BLOCK_MS = 1000  # also how long a stop may wait for a quiet stream
FINISH_S = 5.0  # a blocking read takes BLOCK_MS; what was read is accepted in far less

Entry = tuple[str, Mapping[bytes, bytes]]
Single = tuple[NewItem, Mapping[bytes, bytes]]  # a job of one picture, and its entry's fields


class Intake:
    """Reads `{prefix}:jobs` through the group `intake`. `blocking` is a separate client for the blocking read."""

    def __init__(
        self,
        client: Redis,
        blocking: Redis,
        queue: Queue,
        acceptor: Acceptor,
        metrics: Metrics,
        types: PayloadTypes,
        *,
        lease_s: float,
    ) -> None:
        self._client = client
        self._blocking = blocking
        self._queue = queue
        self._orders = Orders(client, queue.keys)
        self._refusals = Refusals(client, queue, metrics)
        self._keys: Keys = queue.keys
        self._acceptor = acceptor
        self._types = types
        self._lease_s = lease_s  # the entries of a silent replica are read again after this time
        self._stopping = False
        self._ended = asyncio.Event()
        self._ended.set()
        self._cursor = "0-0"
        self._unfinished: list[Entry] = []  # entries that were read, and are neither accepted nor refused
        self.read_at: float | None = None  # monotonic time of the last successful read

    async def run(self) -> None:
        """Read until `finish`, and take over the entries of silent replicas."""
        self._stopping = False
        self._ended.clear()
        sweeper = asyncio.create_task(run_forever("intake reclaim", self._sweep), name="intake reclaim")
        try:
            await run_forever("intake", self._step, until=lambda: self._stopping)
        finally:
            sweeper.cancel()
            self._ended.set()

    async def finish(self) -> None:
        """Read nothing more; return when the entries in hand have ended, or after FINISH_S."""
        self._stopping = True
        await wait_for_event(self._ended, FINISH_S)

    async def _step(self) -> None:
        # Redis may allow reads and refuse writes: read nothing more until the entries in hand have ended.
        self._unfinished = await self._still_ours() or await self._read()
        await self.take(self._unfinished)
        self._unfinished = []

    async def _still_ours(self) -> list[Entry]:
        """The unfinished entries, without those accepted (their reply was lost) or taken over since."""
        if not self._unfinished:
            return []
        first, last = self._unfinished[0][0], self._unfinished[-1][0]
        worker = self._queue.worker
        rows = await self._in_group(
            self._client.xpending_range(
                self._keys.jobs, INTAKE_GROUP, first, last, ROUND, consumername=worker
            )
        )
        ours = {row["message_id"].decode() for row in rows or ()}
        return [entry for entry in self._unfinished if entry[0] in ours]

    async def _read(self) -> list[Entry]:
        # The first read does not wait: its reply shows that this replica consumes.
        block_ms = None if self.read_at is None else BLOCK_MS
        reading = read_new(self._blocking, INTAKE_GROUP, self._queue.worker, self._keys.jobs, ROUND, block_ms)
        entries: list[Entry] | None = await self._in_group(reading)
        if entries is not None:
            self.read_at = time.monotonic()
        return entries or []

    async def _in_group(self, command: Awaitable[Any]) -> Any:
        """Return the command's reply. If the group does not exist yet, create it and return None."""
        try:
            return await command
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.create_group()
            return None

    async def create_group(self) -> None:
        """Create the group from entry 0: jobs may be older than the first replica, or than a failover."""
        try:
            await self._client.xgroup_create(self._keys.jobs, INTAKE_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _sweep(self) -> None:
        await self.reclaim()
        await asyncio.sleep(self._lease_s / 3)

    async def reclaim(self) -> None:
        """Take over unfinished entries of silent replicas, from where the last call stopped: one scan is short."""
        idle_ms = round(self._lease_s * 1000)
        reply = await self._in_group(
            self._client.xautoclaim(
                self._keys.jobs, INTAKE_GROUP, self._queue.worker, idle_ms, self._cursor, ROUND
            )
        )
        if reply is None:
            return
        self._cursor = reply[0].decode()
        in_hand = {entry for entry, _ in self._unfinished}  # of this replica; `_step` goes on with them
        taken = [(entry.decode(), fields) for entry, fields in reply[1] if fields]
        await self.take([(entry, fields) for entry, fields in taken if entry not in in_hand])

    async def take(self, entries: Sequence[Entry]) -> None:
        """Accept or refuse every entry: single jobs together, all others one by one and in order."""
        singles: list[Single] = []
        for entry, fields in entries:
            try:
                payload = parse_entry(fields, self._types)
                if isinstance(payload, Job) and payload.n == 1:
                    item = self._acceptor.single(payload, cloud_event(fields), entry)
                    singles.append((item, fields))
                    continue
                await self._accept_singles(singles)
                singles = []
                await self._take_group(entry, fields, payload)
            except Rejection as rejection:
                await self._refusals.refuse(entry, fields, rejection)
            except (RedisError, OSError):
                raise  # the server is away: the entry is read again
            except Exception:
                log.exception("a bug while taking an entry", entry=entry)
                await self._refusals.refuse(entry, fields, Rejection("unsupported", _BUG))
        await self._accept_singles(singles)

    async def _accept_singles(self, singles: list[Single]) -> None:
        if not singles:
            return
        states = await self._acceptor.singles([item for item, _ in singles])
        for (item, fields), state in zip(singles, states, strict=True):
            if state == "full":
                uid = Uid.parse(item.uid)
                await self._refusals.refuse(item.entry, fields, self._acceptor.full(uid.tenant, uid.item))

    async def _take_group(self, entry: str, fields: Mapping[bytes, bytes], payload: object) -> None:
        match payload:
            case Job():
                await self._take_job(entry, payload, cloud_event(fields))
            case Batch():
                await self._take_batch(entry, payload, cloud_event(fields))
            case Cancel() | RetryRequest():
                await carry_out(payload, self._orders)
                await self._queue.end_order(entry)

    async def _take_job(self, entry: str, job: Job, origin: Mapping[str, str]) -> None:
        verdict = await self._acceptor.job(job, origin, entry)
        await self._close(entry, verdict, job_head(job, origin), "")

    async def _take_batch(self, entry: str, batch: Batch, origin: Mapping[str, str]) -> None:
        verdict = await self._acceptor.batch(batch, origin, entry)
        await self._close(entry, verdict, batch_head(batch, origin), batch.id)

    async def _close(self, entry: str, verdict: Verdict, head: str, batch: str) -> None:
        """End an entry that was no new work."""
        if verdict == "duplicate":
            await self._queue.refuse(entry, event="job.duplicate", head=head, batch=batch)
        elif verdict == "conflict":
            extra = orjson.dumps({"code": "id_conflict", "message": CONFLICT}).decode()[1:-1]
            await self._queue.refuse(entry, event="job.rejected", head=head, batch="", extra=extra)


_BUG = "Pixmill had an internal error with this entry; the daemon's log has the details. Nothing was sent for it."
