"""The limits that operators set while the fleet runs: a table in Redis that stands beside the configuration.

The hash `PREFIX:quotas` holds, for a quota's name, a JSON object with fields as `[quotas.NAME]` of the configuration
has them, and `set_at`, the time of the last change. A field that was set (`images`, `requests`, `polls`,
`in_flight`) replaces the whole configured field of that name, also a list of limits or a preset's; a field
that was not set stays as configured. Fields set at different times add up, the later setting of a field counts, and a
reset takes all of them away. Each process merges with its own configuration, so a field that was not set
follows that file as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import WatchError

from daemon.queue.keys import Keys
from limiter.quota.quota import Quota, QuotaError, parse_quota

SET_AT = "set_at"


@dataclass(frozen=True, slots=True)
class InForce:
    """A quota as it counts now, and as it is configured.

    `set_at` is when an operator last set a part of it (RFC 3339, "" where that is not known), None when nobody did.
    `problem` is why the stored table cannot be read; the configuration counts then.
    """

    quota: Quota
    configured: Quota
    set_at: str | None = None
    problem: str | None = None


def in_force(name: str, configured: Mapping[str, object], stored: bytes | None) -> InForce:
    """Merge a configured table with what is stored for it. Errors: QuotaError, for the configured one alone."""
    as_configured = parse_quota(name, configured)
    if stored is None:
        return InForce(as_configured, as_configured)
    try:
        fields, set_at = _read(stored)
        return InForce(parse_quota(name, {**configured, **fields}), as_configured, set_at)
    except ValueError as error:  # no JSON, no table, or a limit that this version does not know
        return InForce(as_configured, as_configured, problem=str(error))


async def quotas_in_force(
    client: Redis, keys: Keys, configured: Mapping[str, Mapping[str, object]]
) -> dict[str, InForce]:
    """All configured quotas as they count now. Errors: QuotaError, for the configured ones."""
    stored = await stored_tables(client, keys)
    return {name: in_force(name, table, stored.get(name)) for name, table in configured.items()}


async def stored_tables(client: Redis, keys: Keys) -> dict[str, bytes]:
    """The stored tables by quota, unread: also of quotas that are not configured here."""
    tables: dict[Any, Any] = await client.hgetall(keys.quotas)
    return {name.decode("utf-8", "replace"): table for name, table in tables.items()}


async def set_limits(
    client: Redis, keys: Keys, name: str, configured: Mapping[str, object], fields: Mapping[str, object]
) -> InForce:
    """Set some fields of a quota for the whole fleet, and ring for it.

    What was set before and cannot be read is replaced. Errors: QuotaError, for fields that make no quota; nothing
    was changed then.
    """
    while True:
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch(keys.quotas)
            before: Any = await pipe.hget(keys.quotas, name)
            seconds, micros = await pipe.time()
            table = {**_still_set(name, configured, before), **fields}
            parse_quota(name, {**configured, **table})
            now = datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(micros))
            stored = _written(name, {**table, SET_AT: _rfc3339(now)})
            pipe.multi()  # type: ignore[no-untyped-call]  # the library forgot its annotation
            pipe.hset(keys.quotas, name, stored)
            try:
                await pipe.execute()
            except WatchError:
                continue  # somebody else has just set another one: merge with that
        await ring(client, keys, name)
        return in_force(name, configured, stored)


async def reset(client: Redis, keys: Keys, name: str) -> bool:
    """Back to the configuration, for the whole fleet, and ring for it; False when nothing was set."""
    if not await client.hdel(keys.quotas, name):
        return False
    await ring(client, keys, name)
    return True


async def ring(client: Redis, keys: Keys, name: str) -> None:
    """Ring for a change of the quota; a replica that misses it looks by itself."""
    await client.publish(keys.bell, f"quota {name}")


def _still_set(name: str, configured: Mapping[str, object], stored: bytes | None) -> dict[str, object]:
    if stored is None or in_force(name, configured, stored).problem is not None:
        return {}
    return _read(stored)[0]


def _read(stored: bytes) -> tuple[dict[str, object], str]:
    """The fields, and when they were set; raises ValueError."""
    table = orjson.loads(stored)
    if not isinstance(table, dict):
        raise ValueError('it is no table; it looks like {"images": "20/min"}')  # noqa: TRY004 - one error for all
    return table, _utc_or_nothing(table.pop(SET_AT, None))


def _written(name: str, table: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(table)
    except orjson.JSONEncodeError:
        raise QuotaError(
            f"quota {name!r} has a number that is too large; write one like in_flight = 8"
        ) from None


def _utc_or_nothing(value: object) -> str:
    """A time that somebody may have written by hand."""
    try:
        return _rfc3339(datetime.fromisoformat(value).astimezone(UTC)) if isinstance(value, str) else ""
    except (ValueError, OverflowError):
        return ""


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
