"""Reads what was made and paid for, by day, route and tenant; settle.lua adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from redis.asyncio import Redis

from pixmill.records.keys import Keys

MOST_DAYS = 366


async def usage(client: Redis, keys: Keys, days: int, *, tenant: str | None = None) -> list[dict[str, Any]]:
    """A row for each day, route and tenant with any use, newest day first; days are those of the server, in UTC.

    A row has `day, route, tenant, pictures, calls {no, maybe, yes}, cost {currency: amount}`.
    """
    seconds, _ = await client.time()
    today = datetime.fromtimestamp(int(seconds), UTC).date()
    names = [(today - timedelta(days=back)).isoformat() for back in range(days)]
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.hgetall(keys.usage(name))
    rows = []
    for name, fields in zip(names, await pipe.execute(), strict=True):
        rows += [row for row in _rows(name, fields) if tenant in (None, row["tenant"])]
    return rows


def _rows(day: str, fields: Mapping[bytes, bytes]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for field, value in sorted(fields.items()):
        route, tenant, what = field.decode().split("|")
        row = rows.setdefault(
            (route, tenant),
            {
                "day": day,
                "route": route,
                "tenant": tenant,
                "pictures": 0,
                "calls": dict(_NO_CALLS),
                "cost": {},
            },
        )
        kind, _, name = what.partition("_")
        if kind == "cost":
            row["cost"][name] = f"{Decimal(value.decode()):f}"
        elif kind == "calls":
            row["calls"][name] = round(float(value))
        else:
            row["pictures"] = round(float(value))
    return list(rows.values())


_NO_CALLS = {"no": 0, "maybe": 0, "yes": 0}
