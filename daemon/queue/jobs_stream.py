"""Looks at the stream of jobs: what waits in it, and what vanished from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from pixmill.records.keys import INTAKE_GROUP, Keys


@dataclass(frozen=True)
class JobsStream:
    """Entries of the stream at one moment. `lag`, `lost`: None if nobody knows them; Redis 6.2 never does.

    `lost` vanished before they were accepted: a producer trimmed the stream, or somebody deleted from it. They are
    counted since the first replica ran (install.lua), and until the loss is forgotten. Nobody knows their ids.
    """

    length: int
    pending: int
    lag: int | None
    lost: int | None
    is_read: bool

    @classmethod
    def of(
        cls, stream: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], ended: int | None
    ) -> JobsStream:
        """From the replies of XINFO STREAM and XINFO GROUPS, and the count of ended entries."""
        names = (INTAKE_GROUP, INTAKE_GROUP.encode())
        group = next((each for each in groups if each["name"] in names), None)
        pending = 0 if group is None else group["pending"]
        added: Any = stream.get("entries-added")
        # A pending entry may be gone already: its reader accepts its job all the same. A stream that was deleted as a
        # whole begins anew, and less than nothing is lost until a replica begins the count anew too.
        is_known = added is not None and ended is not None
        lost = added - (ended or 0) - max(stream["length"], pending) if is_known else -1
        return cls(
            length=stream["length"],
            pending=pending,
            lag=None if group is None else group.get("lag"),
            lost=None if lost < 0 else lost,
            is_read=group is not None,
        )


async def look_at_jobs(client: Redis, keys: Keys) -> JobsStream | None:
    """Look at the stream; None if it does not exist. One step: a job that arrives in between would seem lost."""
    async with client.pipeline(transaction=True) as pipe:
        pipe.xinfo_stream(keys.jobs)
        pipe.xinfo_groups(keys.jobs)
        pipe.hget(keys.installation, "entries_ended")
        stream, groups, ended = await pipe.execute(raise_on_error=False)
    if isinstance(stream, ResponseError) and "no such key" in str(stream).lower():
        return None
    for reply in (stream, groups, ended):
        if isinstance(reply, Exception):
            raise reply
    return JobsStream.of(stream, groups, None if ended is None else int(ended))
