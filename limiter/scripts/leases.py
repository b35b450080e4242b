"""The leases of calls in flight: prolonged and ended; the steps behind `Limiter.renew`, `submitted` and `release`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from limiter.lua import LuaScript
from limiter.permit import Permit
from limiter.server import Server, text_of
from limiter.steps import uninterrupted

_HERE: Final = Path(__file__).parent
_RELEASE: Final = LuaScript.load(_HERE, "release")
_RENEW: Final = LuaScript.load(_HERE, "renew")


async def prolong(server: Server, permits: Sequence[Permit], by_us: int) -> list[Permit]:
    """Let the leases of all `permits` end `by_us` from now at the earliest; returns the permits that are unknown."""
    held = [(permit, quota, weight) for permit in permits for quota, weight in permit.leases]
    if not held:
        return []
    keys = dict.fromkeys(server.keys.leases(quota) for _, quota, _ in held)
    numbers = {key: number for number, key in enumerate(keys, start=2)}
    args: list[str | int] = [server.now_us(), by_us, server.epoch]
    for permit, quota, weight in held:
        args += [numbers[server.keys.leases(quota)], permit.grant_id, permit.who, weight]
    epoch, *lost = await uninterrupted(_RENEW(server.client, (server.keys.clock, *keys), args))
    server.epoch = text_of(epoch)
    lost_grants = {held[int(number) - 1][0].grant_id for number in lost}
    return [permit for permit in permits if permit.grant_id in lost_grants]


async def release(server: Server, permit: Permit) -> bool:
    """See Limiter.release."""
    if not permit.quotas:
        return False
    pairs = [key(quota) for quota in permit.leased for key in (server.keys.leases, server.keys.waiting)]
    freed = await uninterrupted(
        _RELEASE(
            server.client,
            (server.keys.clock, server.record(permit), *pairs),
            (server.now_us(), permit.grant_id, permit.who, server.keys.bell, *permit.weights),
        )
    )
    return int(freed) > 0
