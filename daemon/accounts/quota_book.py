"""Keeps the limits in force of a replica's routes: the configuration, and the limits that operators set.

The limits are read at the start, when the bell rings `quota NAME`, and every few seconds. A change replaces the quotas
of a route as a whole. Used quota stays used: see docs/limiter.md, "When a limit is changed".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from redis.asyncio import Redis

from daemon.accounts.quota_store import InForce, in_force, stored_tables
from daemon.accounts.routes import Routes
from daemon.broker.loops import run_forever, wait_for_event
from daemon.queue.bell import Bell
from limiter.explain import spelled
from pixmill.records.keys import Keys

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 3.0


class QuotaBook:
    """Keeps the `quotas` of each of the `routes` in force. `configured` has the tables by quota.

    `known` is set after the first reading. Nothing may be sent before that: an operator may allow less than the
    configuration. Each change rings the bell.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        routes: Routes,
        configured: Mapping[str, Mapping[str, object]],
        bell: Bell,
    ) -> None:
        self.known = asyncio.Event()
        self._client = client
        self._keys = keys
        self._routes = routes
        self._configured = configured
        self._bell = bell
        self._seen: dict[str, bytes] = {}

    async def run(self) -> None:
        await run_forever("quota book", self._step)

    async def _step(self) -> None:
        await self.read()
        await wait_for_event(self._bell.quota_rung, LOOK_EVERY_S)
        self._bell.quota_rung.clear()

    async def read(self) -> None:
        """Read and apply changes now. An unreadable entry is logged once, and the configuration counts."""
        stored = await stored_tables(self._client, self._keys)
        for name, table in self._configured.items():
            if stored.get(name) != self._seen.get(name):
                self._change(name, in_force(name, table, stored.get(name)))
        self._seen = stored
        self.known.set()

    def _change(self, name: str, now: InForce) -> None:
        limits = ", ".join(map(spelled, now.quota.limits))
        if now.problem is not None:
            log.error(
                "the stored limits of a quota cannot be read, so its configuration counts; "
                "`pixmill quota set` or `--reset` ends this",
                quota=name,
                problem=now.problem,
                limits=limits,
            )
        elif now.set_at is None:
            log.info("the quota is as configured again", quota=name, limits=limits)
        else:
            log.info("an operator set the quota", quota=name, limits=limits, at=now.set_at)
        for route in self._routes.values():
            route.quotas = tuple(now.quota if each.name == name else each for each in route.quotas)
        # Recall the grants under the former limits, also those that were requested since the bell rang.
        self._bell.recalls.note_gap()
        self._bell.ring_everybody()
