"""Journals the later parts of a large batch before its first part is opened.

Together they may have 64 MiB, and Redis serves nobody else while it takes one call. So they are written in pieces, each
with an early end; the step that opens the batch keeps them. A batch that is not opened leaves nothing for long.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from redis.asyncio import Redis

from pixmill.contract import BATCH_TYPE, Batch
from pixmill.records.keys import Keys

PIECE_BYTES = 1024**2  # a round trip, but for the part that exceeds it
STAGED_MS = 600_000


class Journal:
    """Writes for one installation. Errors: those of the Redis client; what was written ends by itself then."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def stage(self, gid: str, parts: Iterable[Batch]) -> str:
        """Write the parts; returns their mark, which keeps them apart from those of another send of the same id."""
        mark = f":{secrets.token_hex(8)}"
        pipe, size = self._client.pipeline(transaction=False), 0
        for part in parts:
            entry = journaled(BATCH_TYPE, part.to_data())
            pipe.set(self._keys.accepting_part(gid, part.part) + mark, entry, px=STAGED_MS)
            size += len(entry)
            if size > PIECE_BYTES:
                await pipe.execute()
                size = 0
        await pipe.execute()
        return mark


def journaled(kind: str, data: bytes) -> bytes:
    """A part as the journal has it: the type of its entry, a blank and its data."""
    return b"%s %s" % (kind.encode(), data)
