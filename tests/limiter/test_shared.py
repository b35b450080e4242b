"""Limits shared by several routes: nobody starves, nothing is wasted, and one quota can hold every kind of limit."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

import pytest

import limiter.quota.limits
from limiter import Bound, Grant, Later, Quota, parse_quota
from tests.limiter.conftest import Rig, on_valkey

S = 1_000_000


@dataclass(order=True)
class _Worker:
    """Requests, sleeps until its slot, sends, and requests again, as a dispatcher does."""

    wakes_us: int
    order: int
    route: str = field(compare=False)
    quotas: tuple[Quota, ...] = field(compare=False)
    costs: dict[str, int] = field(compare=False)
    max_wait_s: float = field(compare=False, default=3600.0)


async def _sent(
    rig: Rig, workers: list[_Worker], jobs: dict[str, int], until_us: int
) -> dict[str, list[int]]:
    """The slots (µs from the start) of all calls before `until_us`, by route."""
    sent: dict[str, list[int]] = {route: [] for route in jobs}
    heapq.heapify(workers)
    while workers and workers[0].wakes_us < until_us:
        worker = heapq.heappop(workers)
        rig.time.now_us = rig.time.start_us + worker.wakes_us
        if not jobs[worker.route]:
            continue
        answer = await rig.request(*worker.quotas, costs=worker.costs, max_wait_s=worker.max_wait_s)
        if isinstance(answer, Grant):
            worker.wakes_us += answer.wait_us
            jobs[worker.route] -= 1
            if worker.wakes_us < until_us:
                sent[worker.route].append(worker.wakes_us)
        else:
            worker.wakes_us += answer.retry_us
        heapq.heappush(workers, worker)
    return sent


@on_valkey
@pytest.mark.parametrize("horizon_s", [3600.0, 2.0])
@pytest.mark.parametrize(
    "account",
    [{"requests": "10/s"}, {"requests": {"rate": "10/s", "burst": 1}}],
    ids=["window", "bucket"],
)
async def test_a_slow_route_neither_starves_nor_holds_up_a_fast_one(
    rig: Rig, account: dict[str, object], horizon_s: float
) -> None:
    shared, slow = parse_quota("account", account), parse_quota("model-a", {"requests": "1/s"})
    order = count()
    # All calls of A are requested at once, far into the future; B has 16 callers, each with one call at a time.
    workers = [_Worker(0, next(order), "a", (slow, shared), {"requests": 1}, horizon_s) for _ in range(20)]
    workers += [_Worker(0, next(order), "b", (shared,), {"requests": 1}, horizon_s) for _ in range(16)]
    sent = await _sent(rig, workers, {"a": 20, "b": 1000}, 30 * S)
    assert len(sent["a"]) >= 19
    assert len(sent["b"]) >= 270
    assert sum(slot_us < 10 * S for slot_us in sent["b"]) >= 85


async def test_calls_of_every_size_are_granted(rig: Rig) -> None:
    quota = parse_quota("api", {"images": "8/s"})
    order = count()
    workers = [_Worker(0, next(order), "small", (quota,), {"images": 1}) for _ in range(12)]
    workers.append(_Worker(0, next(order), "large", (quota,), {"images": 8}))
    sent = await _sent(rig, workers, {"small": 1000, "large": 1000}, 20 * S)
    gaps_us = [later - earlier for earlier, later in zip(sent["large"], sent["large"][1:], strict=False)]
    # Ahead of a request are 12 small calls and the large one before: never more than three windows.
    assert max(gaps_us) <= 3 * 1_010_000
    assert len(sent["small"]) + 8 * len(sent["large"]) >= 8 * 19


async def test_one_quota_holds_four_limits_and_each_binds_in_its_time(rig: Rig) -> None:
    quota = parse_quota(
        "all", {"requests": ["10/s", "120/min"], "images": "200/min", "in_flight": {"images": 16}}
    )
    slots: list[int] = []
    bounds = set()
    while len(slots) < 130:
        answer = await rig.request(quota, costs={"requests": 1, "images": 1 + len(slots) % 2}, max_wait_s=0)
        if isinstance(answer, Grant):
            slots.append(rig.time.now_us)
            await rig.limiter.release(answer.permit)
        else:
            bounds.add(answer.bound)
            rig.time.advance(answer.retry_us)
    assert max(sum(first <= slot < first + 1_010_000 for slot in slots) for first in slots) == 10
    assert max(sum(first <= slot < first + 60_100_000 for slot in slots) for first in slots) == 120
    assert bounds == {Bound("all", "requests")}
    for _ in range(4):
        await rig.slot(quota, costs={"images": 4})
    assert (await rig.request(quota, costs={"images": 1})) == Later(5 * S, Bound("all", "in_flight"))
    [state] = await rig.limiter.snapshot([quota])
    assert [unit.unit for unit in state.units] == ["requests", "images", "in_flight"]
    assert state.in_flight == 16


@on_valkey
@pytest.mark.parametrize(
    "spec",
    ["50/5s", "7/s", "59/min", "1/2s", "2100/min"],
    ids=lambda spec: spec.replace("/", " in "),
)
async def test_a_saturated_window_is_used_to_its_formula(rig: Rig, spec: str) -> None:
    quota = parse_quota("api", {"requests": spec})
    [window] = quota.limits
    calls = min(4 * window.most, 700 + window.most) + 1
    slots = [await rig.slot(quota) for _ in range(calls)]
    periods = (calls - 1) // window.most
    slices = 0 if window.most <= 2000 else 1 / 256
    greedy_us = periods * window.span_us  # type: ignore[union-attr] # the specs are windows
    assert greedy_us <= slots[-1] <= greedy_us * (1 + slices) + window.span_us * slices  # type: ignore[union-attr]


@on_valkey
async def test_no_rate_drifts_however_long(rig: Rig) -> None:
    quota = parse_quota("odd", {"requests": {"rate": "59/min", "burst": 3}})
    lag_us = quota.limits[0].lag_us  # type: ignore[union-attr] # it is a bucket
    for turn in range(400):
        slot = await rig.slot(quota)
        assert slot == (max(0, -(-(turn - 2) * 60 * S // 59)) + lag_us if turn > 2 else 0)
        rig.time.now_us = rig.time.start_us + slot


@pytest.mark.parametrize("spec", ["1/d", "10000/s", "1/366d"])
async def test_the_slowest_and_the_fastest_rates_are_exact(rig: Rig, spec: str) -> None:
    bucket = parse_quota("bucket", {"requests": {"rate": spec, "burst": 1}})
    [limit] = bucket.limits
    step_us = -(-limit.period_us // limit.most) if spec == "1/d" else limit.period_us // limit.count  # type: ignore[union-attr]
    answers = [await rig.request(bucket, max_wait_s=1e9) for _ in range(4)]
    waits = [answer.wait_us if isinstance(answer, Grant) else -1 for answer in answers]
    expected = [number * (step_us + limit.lag_us) for number in range(4)]  # type: ignore[union-attr] # a bucket
    assert [wait if wait >= 0 else expected[n] for n, wait in enumerate(waits)] == expected


@pytest.mark.parametrize("swapped", [False, True])
async def test_a_limit_is_tried_again_when_another_one_has_moved_the_slot(rig: Rig, swapped: bool) -> None:
    first, second = parse_quota("first", {"requests": "1/s"}), parse_quota("second", {"requests": "1/2s"})
    await rig.slot(second)
    await rig.limiter.penalise(Quota("far"), retry_after_s=2.5, reason="429")
    assert await rig.slot(first, parse_quota("far", {"in_flight": 9})) == 2_500_000
    # There is room under `first` now and under `second` at 2.02 s, but then `first` has none until 3.51 s.
    quotas = (second, first) if swapped else (first, second)
    assert await rig.slot(*quotas) == 3_510_000


@on_valkey
async def test_slices_that_leave_are_forgotten_and_no_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter.quota.limits, "EXACT_MOST", 20)
    quota = parse_quota("large", {"requests": "250/250s"})
    slots: list[int] = []
    for number in range(900):
        slots.append(rig.time.now_us - rig.time.start_us + await _wait_us(rig, quota))
        # Spread over the first window, and from then on as soon as ever possible.
        rig.time.now_us = rig.time.start_us + slots[-1] + (S if number < 250 else 0)
    for early, late in zip(slots, slots[250:], strict=False):
        assert late - early >= 250_100_000
    assert await rig.client.hlen(f"{rig.prefix}:limiter:large:slices:requests") < 600


async def _wait_us(rig: Rig, quota: Quota) -> int:
    answer = await rig.request(quota)
    assert isinstance(answer, Grant)
    return answer.wait_us
