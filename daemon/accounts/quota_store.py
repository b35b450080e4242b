"""Stores the limits that operators set while the fleet runs: a table in Redis beside the configuration.

The hash `PREFIX:quotas` has one JSON object per quota: fields as in `[quotas.NAME]` of the configuration, and `set_at`,
the time of the last change. A field that was set (`images`, `requests`, `polls`, `in_flight`) replaces the whole
configured field, even a list of limits or the field of a preset. All other fields stay as configured. Fields add up
over time, the latest setting of a field counts, and a reset removes all of them. Each process merges the table with its
own configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import WatchError

from limiter.quota.quota import Quota, QuotaError, parse_quota
from pixmill.records.keys import Keys
from pixmill.records.views import rfc3339

SET_AT = "set_at"


@dataclass(frozen=True, slots=True)
class InForce:
    """A quota in force, and as it is configured.

    `set_at` is the time when an operator last set a field (RFC 3339; "" if unknown), None if no field is set.
    `problem` is the reason why the stored table cannot be read; the configuration counts then.
    """

    quota: Quota
    configured: Quota
    set_at: str | None = None
    problem: str | None = None


def in_force(name: str, configured: Mapping[str, object], stored: bytes | None) -> InForce:
    """Merge a configured table with the stored one. Raises QuotaError for an error in the configured one."""
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
    """All configured quotas in force. Raises QuotaError for an error in a configured one."""
    stored = await stored_tables(client, keys)
    return {name: in_force(name, table, stored.get(name)) for name, table in configured.items()}


async def stored_tables(client: Redis, keys: Keys) -> dict[str, bytes]:
    """The stored tables by quota, unparsed, including quotas that are not configured here."""
    tables: dict[Any, Any] = await client.hgetall(keys.quotas)
    return {name.decode("utf-8", "replace"): table for name, table in tables.items()}


async def set_limits(
    client: Redis, keys: Keys, name: str, configured: Mapping[str, object], fields: Mapping[str, object]
) -> InForce:
    """Set some fields of a quota for the whole fleet, and ring for it.

    An unreadable stored table is replaced. Raises QuotaError for fields that make no quota; nothing changes then.
    """
    while True:
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch(keys.quotas)
            before: Any = await pipe.hget(keys.quotas, name)
            seconds, micros = await pipe.time()
            table = {**_still_set(name, configured, before), **fields}
            parse_quota(name, {**configured, **table})
            now = datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(micros))
            stored = _written(name, {**table, SET_AT: rfc3339(now)})
            pipe.multi()  # type: ignore[no-untyped-call]  # the library forgot its annotation
            pipe.hset(keys.quotas, name, stored)
            try:
                await pipe.execute()
            except WatchError:
                continue  # another operator has just set a field: merge with it
        await ring(client, keys, name)
        return in_force(name, configured, stored)


async def reset(client: Redis, keys: Keys, name: str) -> bool:
    """Return a quota to its configuration, for the whole fleet, and ring; False when nothing was set."""
    if not await client.hdel(keys.quotas, name):
        return False
    await ring(client, keys, name)
    return True


async def ring(client: Redis, keys: Keys, name: str) -> None:
    """Ring for a change of the quota; a replica that misses the ring finds the change by itself."""
    await client.publish(keys.bell, f"quota {name}")


def _still_set(name: str, configured: Mapping[str, object], stored: bytes | None) -> dict[str, object]:
    if stored is None or in_force(name, configured, stored).problem is not None:
        return {}
    return _read(stored)[0]


def _read(stored: bytes) -> tuple[dict[str, object], str]:
    """The fields, and the time of the last change; raises ValueError."""
    table = orjson.loads(stored)
    if not isinstance(table, dict):
        raise ValueError('it is no table; a table looks like {"images": "20/min"}')  # noqa: TRY004 - one error for all
    return table, _utc_or_nothing(table.pop(SET_AT, None))


def _written(name: str, table: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(table)
    except orjson.JSONEncodeError:
        raise QuotaError(
            f"quota {name!r} has a number that is too large; write one like in_flight = 8"
        ) from None


def _utc_or_nothing(value: object) -> str:
    """The time in UTC, or "" for text that is no time; it may be written by hand."""
    try:
        return rfc3339(datetime.fromisoformat(value).astimezone(UTC)) if isinstance(value, str) else ""
    except (ValueError, OverflowError):
        return ""
