"""Reads the events of an installation through a group of its own and writes what they say into PostgreSQL.

An event is acknowledged after the commit that has it. So a mirror that dies reads it again, and that changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from daemon.gateway.events.frames import Position
from daemon.gateway.events.replay import StreamState, has_lost, state_of
from daemon.mirror.database import BadRowError, Database, Tables
from daemon.mirror.filling import Filler
from daemon.mirror.story import Page, page_of, tell
from pixmill.broker.streams import Entry, read_new
from pixmill.records.keys import Keys

log = structlog.get_logger(__name__)

GROUP = "mirror"
CONSUMER = "mirror"  # of all mirrors: one that starts goes on with what another one left behind
ROUND = 1000  # events a transaction
BLOCK_MS = 5000
# A mirror takes over events that another one has read and not acknowledged for this time. Items that run without an
# event for this time are looked up.
SILENT_S = 60.0


class Mirror:
    """Follows the events; `step` is one round. `blocking` is a client of its own for the blocking read."""

    def __init__(self, client: Redis, blocking: Redis, keys: Keys, database: Database) -> None:
        self._client = client
        self._blocking = blocking
        self._stream = keys.events
        self._database = database
        self._filler = Filler(client, keys, database)
        self._in_hand: list[Entry] = []  # events that were read and are not written yet
        self._must_sweep = True  # events may have been read before, and not written
        self._swept_at = 0.0
        self._has_lost = False  # events that were read and not written have been trimmed since
        self._position: Position | None = None  # as far as the tables go; None: to be read from them

    async def step(self) -> None:
        """Read the next events, or wait for some, and write them. Errors: those of Redis; then call it again."""
        try:
            self._in_hand = self._in_hand or await self._read()
            await self._fill_gap()
            await self._write(self._in_hand)
            await self._acknowledge([name for name, _ in self._in_hand])
            self._in_hand = []
        except (RedisError, OSError):
            self._must_sweep = True  # the reply with the next events may be lost
            raise

    # Reading

    async def _read(self) -> list[Entry]:
        if self._must_sweep or time.monotonic() - self._swept_at >= SILENT_S:
            if found := await self._in_group(self._sweep(0.0 if self._must_sweep else SILENT_S)):
                return list(found)
            await self._filler.running((await state_of(self._client, self._stream)).last, SILENT_S)
            self._must_sweep, self._swept_at = False, time.monotonic()
        reading = read_new(self._blocking, GROUP, CONSUMER, self._stream, ROUND, BLOCK_MS)
        return await self._in_group(reading) or []

    async def _sweep(self, silent_s: float) -> list[Entry]:
        """A page of the events that were read and not acknowledged for so long; they are the oldest ones."""
        cursor = "0-0"
        while True:
            reply: Any = await self._client.xautoclaim(
                self._stream, GROUP, CONSUMER, round(silent_s * 1000), cursor, ROUND
            )
            self._has_lost |= len(reply) > 2 and bool(reply[2])
            entries = [(name.decode(), fields) for name, fields in reply[1] if name and fields]
            if entries or reply[0] == b"0-0":
                return entries
            cursor = reply[0].decode()

    async def _in_group(self, command: Awaitable[Any]) -> Any:
        """The command's reply. If there is no group, create one that begins with the oldest event, and return None."""
        try:
            return await command
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
        try:
            await self._client.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        return None

    async def _acknowledge(self, names: Sequence[str]) -> None:
        if names:
            await self._client.xack(self._stream, GROUP, *names)

    # Gaps

    async def _fill_gap(self) -> None:
        """Write all records if events that follow our position were trimmed, or if Redis has lost our position."""
        state = await state_of(self._client, self._stream)
        if self._position is not None and not self._is_gap(state, self._position):
            return
        # Another mirror may have gone further since.
        self._position = await self._database.run(lambda tables: tables.position(self._stream))
        if not self._is_gap(state, self._position):
            return
        log.warning("events were trimmed before they were read; reading all records instead")
        at = max(state.last, self._position)
        await self._filler.everything(at)
        await self._move_to(at)
        self._has_lost = False
        log.info("all records are written")

    def _is_gap(self, state: StreamState, position: Position) -> bool:
        return self._has_lost or state.last < position or has_lost(state, position)

    async def _move_to(self, position: Position) -> None:
        await self._database.run(lambda tables: tables.note_position(self._stream, position))
        self._position = position

    # Writing

    async def _write(self, entries: Sequence[Entry]) -> None:
        """Write a round. What PostgreSQL refuses is found by halves, and left out."""
        if not entries:
            return
        page = page_of(entries)
        try:
            await self._database.run(partial(self._write_page, page))
        except BadRowError as error:
            if len(entries) == 1:
                log.error("an event does not fit into the tables", entry=entries[0][0], error=str(error))  # noqa: TRY400
                return
            middle = len(entries) // 2
            await self._write(entries[:middle])
            await self._write(entries[middle:])
        self._position = max(self._position or page.last, page.last)

    async def _write_page(self, page: Page, tables: Tables) -> None:
        known = await tables.items({event.uid for event in page.items})
        rows, in_doubt = tell(known, page.items)
        if in_doubt or page.batches:
            at = max((await state_of(self._client, self._stream)).last, page.last)
            recorded = {row.gid: row for row in await self._filler.batches(page.batches, at)}
            ended = [row for gid, row in page.batches.items() if row is not None and gid not in recorded]
            await tables.put_batches([*recorded.values(), *ended])
            rows |= {row.uid: row for row in await self._filler.items(in_doubt, at)}
        await tables.put_items(list(rows.values()))
        await tables.note_position(self._stream, page.last)
