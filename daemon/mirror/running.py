"""Runs a mirror until a signal."""

from __future__ import annotations

import asyncio

import structlog

from daemon.broker.loops import run_forever
from daemon.mirror.database import Database
from daemon.mirror.mirror import Mirror
from daemon.service import freeze_what_stays, redis_of
from daemon.settings import Settings, SettingsError
from daemon.signals import unless_leaving, until_signal
from pixmill.broker.connect import blocking_client, command_client
from pixmill.records.keys import Keys

log = structlog.get_logger(__name__)


async def run_mirror(settings: Settings) -> int:
    """`pixmill mirror` until a signal, and to the end of its round; returns 0. Raises SettingsError."""
    if settings.mirror.postgres is None:
        raise SettingsError(
            ["No PostgreSQL is configured: set mirror.postgres, PIXMILL_MIRROR__POSTGRES or --postgres."]
        )
    database = Database(settings.mirror.postgres)
    redis_url, prefix = redis_of(settings), settings.redis.prefix
    client, blocking = command_client(redis_url, prefix), blocking_client(redis_url, prefix)
    mirror = Mirror(client, blocking, Keys(prefix), database)

    async def follow() -> None:
        await database.prepare()
        log.info("mirror started")
        await run_forever("mirror", mirror.step)

    leaving = asyncio.create_task(until_signal())
    try:
        freeze_what_stays()
        await unless_leaving(leaving, follow())
    finally:
        leaving.cancel()
        await database.aclose()
        await client.aclose()
        await blocking.aclose()
    return 0
