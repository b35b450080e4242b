"""Of several accounts the one with the earliest slot takes the next item: together they need what all quotas allow."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from limiter import Later, Limiter, Permit, Recalls, Slots
from limiter.quota.quota import Quota, parse_quota
from limiter.quota.shares import shares
from limiter.simulation.fleet import HORIZON_S, START_US, Event, Provider, Timeline

_PREFIXES = itertools.count()


class Line:
    """Items that the accounts of all quotas serve: a permit first, then the next item, as in the daemon."""

    def __init__(self, redis: Redis, items: int) -> None:
        self.timeline = Timeline()
        self.starts_s: list[float] = []
        self.by: list[str] = []
        self.refused = 0
        self._left = items
        self._limiter = Limiter(redis, f"equals{next(_PREFIXES)}", clock=lambda: self.timeline.now_us)
        self._recalls = Recalls(lambda: self.timeline.now_us / 1e6)

    def dispatcher(self, quota: Quota) -> Event:
        slots = Slots(self._limiter, self._recalls, "replica", quota.name)
        provider = Provider(quota.limits, self.timeline)

        def claim(permit: Permit) -> Event:
            async def start() -> None:
                if not self._left:
                    await self._limiter.give_back(permit)
                    return
                self._left -= 1
                self.starts_s.append((self.timeline.now_us - START_US) / 1e6)
                self.by.append(quota.name)
                self.refused += not provider.admits()
                self.timeline.at(self.timeline.now_us, request)

            return start

        async def request() -> None:
            if not self._left:
                await slots.leave()
                return
            reply = await slots.request((quota,), horizon_s=HORIZON_S)
            if isinstance(reply, Later):
                self.timeline.after(slots.retry_s(reply), request)
            else:
                self.timeline.at(self.timeline.now_us + reply.wait_us, claim(slots.take(reply).permit))

        return request


async def served(redis: Redis, items: int, quotas: Sequence[Quota]) -> Line:
    line = Line(redis, items)
    for quota in quotas:
        line.timeline.at(START_US, line.dispatcher(quota))
    await line.timeline.run()
    return line


def drawn(draw: random.Random, name: str) -> Quota:
    rate = f"{draw.randint(1, 20)}/{draw.randint(1, 30)}s"
    forms: list[object] = [
        rate,
        {"rate": rate, "burst": draw.randint(1, 5)},
        {"every": f"{draw.randint(1, 9)}s"},
    ]
    return parse_quota(name, {"images": draw.choice(forms)})


@pytest.mark.parametrize("seed", range(8))
async def test_the_items_take_the_earliest_slots_of_all_calendars(redis: Redis, seed: int) -> None:
    draw = random.Random(seed)
    quotas = [drawn(draw, name) for name in ("a", "b", "c")[: draw.randint(2, 3)]]
    items = draw.randint(5, 60)
    together = await served(redis, items, quotas)
    alone = [await served(redis, items, [quota]) for quota in quotas]
    earliest = sorted(start_s for each in alone for start_s in each.starts_s)[:items]
    # A denied dispatcher asks again within the horizon, so a start may differ by the guards, never by a slot.
    assert together.starts_s == pytest.approx(earliest, abs=0.001)
    assert together.refused == 0


@pytest.mark.parametrize(("items", "last_s"), [(40, 0.0), (80, 60.0), (120, 120.0)])
async def test_two_accounts_need_half_the_time_of_one(redis: Redis, items: int, last_s: float) -> None:
    quotas = [parse_quota(name, {"images": "20/min"}) for name in "ab"]
    line = await served(redis, items, quotas)
    assert line.starts_s[-1] == pytest.approx(last_s, abs=0.5)
    assert (line.by.count("a"), line.refused) == (items // 2, 0)


@pytest.mark.parametrize("seed", range(5))
async def test_an_estimate_splits_calls_as_the_slots_do(redis: Redis, seed: int) -> None:
    draw = random.Random(seed)
    quotas = [parse_quota(name, {"images": f"{draw.randint(1, 9)}/10s"}) for name in "ab"]
    line = await served(redis, 60, quotas)
    split = shares(60, [[quota] for quota in quotas])
    assert sum(split) == 60
    assert split[0] == pytest.approx(line.by.count("a"), abs=6)
    assert shares(0, [[quotas[0]], []]) == [0, 0]
    assert shares(7, [[quotas[0]], []]) == [0, 7] or quotas[0].optimum_s(7, 0) == 0
