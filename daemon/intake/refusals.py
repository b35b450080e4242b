"""Refuses entries of the jobs stream: an event for the producer, and a dead letter without credentials."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import structlog
from redis.asyncio import Redis

from daemon.intake.acceptance import cloud_event, head_of
from daemon.queue.queue import Queue
from daemon.telemetry.metrics import Metrics
from pixmill.contract import Rejection, contains_secret
from pixmill.records.keys import INTAKE_GROUP

log = structlog.get_logger(__name__)

UNKNOWN_TYPE_READS = 4  # a newer replica has this many leases to take an entry that this one cannot read
MOST_KEPT_FIELDS = 64
MOST_KEPT_NAME = 256
MOST_KEPT_BYTES = 4096  # of each value, in the dead letter of an entry that is too large


class Refusals:
    """The refusals of one replica."""

    def __init__(self, client: Redis, queue: Queue, metrics: Metrics) -> None:
        self._client = client
        self._queue = queue
        self._metrics = metrics

    async def refuse(self, entry: str, fields: Mapping[bytes, bytes], rejection: Rejection) -> None:
        """End the entry with the rejection. One of an unknown type stays pending for UNKNOWN_TYPE_READS leases."""
        if rejection.code == "unknown_type" and await self._reads(entry) < UNKNOWN_TYPE_READS:
            # It is read again after its lease, perhaps by a newer replica that knows the type.
            return
        ident = rejection.ident or entry
        head = head_of(rejection.tenant or "default", ident, ident, origin=cloud_event(fields))
        error = {"code": rejection.code, "field": rejection.field, "message": rejection.message}
        if await self._queue.refuse(
            entry,
            event="job.rejected",
            head=head,
            batch="",
            extra=orjson.dumps(error).decode()[1:-1],
            reason=rejection.code,
            error=orjson.dumps(error),
            kept=_kept(fields, rejection),
        ):
            self._metrics.dead_letters.labels(reason=rejection.code).inc()
            log.warning("entry refused", entry=entry, code=rejection.code, field=rejection.field)

    async def _reads(self, entry: str) -> int:
        rows = await self._client.xpending_range(self._queue.keys.jobs, INTAKE_GROUP, entry, entry, 1)
        return int(rows[0]["times_delivered"]) if rows else UNKNOWN_TYPE_READS


def _kept(fields: Mapping[bytes, bytes], rejection: Rejection) -> list[tuple[bytes, bytes]]:
    """The fields of a refused entry for its dead letter: no credentials, and only the start of a large entry."""
    # Look for secrets under every code: a studio payload carries its key, and an unknown type was never parsed.
    if rejection.code == "secret_in_payload" or any(contains_secret(value) for value in fields.values()):
        return []
    kept = list(fields.items())[:MOST_KEPT_FIELDS]
    if rejection.code == "too_large":
        return [(name[:MOST_KEPT_NAME], value[:MOST_KEPT_BYTES]) for name, value in kept]
    return kept
