"""A limiter in virtual time on a real Valkey and on fakeredis: its scripts never block, so both agree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

import limiter.quota.limits
from limiter import Grant, Later, Limiter, Permit, Quota
from limiter.script import LuaScript
from limiter.scripts import grants

_PREFIXES = count()
_ACQUIRE = grants._ACQUIRE


class VirtualTime:
    """A clock in µs that moves only on request; it starts at a time with 16 digits, as real ones have."""

    def __init__(self) -> None:
        self.start_us = self.now_us = 1_795_000_000_000_003

    def __call__(self) -> int:
        return self.now_us

    def advance(self, us: int) -> None:
        self.now_us += us


class Rig:
    """A limiter on its own keys and its own virtual clock."""

    def __init__(self, client: Redis, lease_s: float = 15.0) -> None:
        self.client = client
        self.time = VirtualTime()
        self.prefix = f"{{rig{next(_PREFIXES)}}}"
        self.limiter = Limiter(client, self.prefix, lease_s=lease_s, clock=self.time)
        self._requests = count()

    async def request(
        self,
        *quotas: Quota,
        costs: dict[str, int] | None = None,
        max_wait_s: float = 3600.0,
        request_id: str | None = None,
        after: Later | None = None,
    ) -> Grant | Later:
        return await self.limiter.acquire(
            quotas,
            costs={"requests": 1, "images": 1} if costs is None else costs,
            holder="replica-1",
            request_id=f"job-{next(self._requests)}" if request_id is None else request_id,
            max_wait_s=max_wait_s,
            after=after,
        )

    async def slot(self, *quotas: Quota, costs: dict[str, int] | None = None) -> int:
        """The slot (µs after the start of time) of a call that is granted, however late."""
        answer = await self.request(*quotas, costs=costs)
        assert isinstance(answer, Grant)
        return self.time.now_us + answer.wait_us - self.time.start_us

    async def permit(self, *quotas: Quota, request_id: str | None = None) -> Permit:
        answer = await self.request(*quotas, request_id=request_id)
        assert isinstance(answer, Grant)
        return answer.permit

    async def dump(self) -> dict[bytes, tuple[bytes | None, int]]:
        """Every key of this limiter with its content and the time it dies."""
        keys: list[Any] = await self.client.keys(f"{self.prefix}*")
        return {key: (await self.client.dump(key), await self.client.pexpiretime(key)) for key in keys}


def exact_most(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let the largest window with an exact book have this count."""
    former, new = (f"LOG_MOST = {count}\n" for count in (2_000, most))
    assert former in _ACQUIRE.source
    monkeypatch.setattr(limiter.quota.limits, "EXACT_MOST", most)
    monkeypatch.setattr(grants, "_ACQUIRE", LuaScript("acquire", _ACQUIRE.source.replace(former, new)))


# For long runs. fakeredis takes several times as long, and the short tests show that both servers agree.
on_valkey = pytest.mark.parametrize("server", ["valkey"], indirect=True)


@pytest.fixture(params=["valkey", "fakeredis"])
async def server(request: pytest.FixtureRequest, redis: Redis) -> AsyncIterator[Redis]:
    if request.param == "valkey":
        yield redis
        return
    fake = FakeAsyncRedis()
    yield fake
    await fake.aclose()


@pytest.fixture
def rig(server: Redis) -> Rig:
    return Rig(server)
