"""Whatever the order of calls: no limit ever grants more than it allows. Every claim is checked by brute force."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import limiter.quota.limits
from limiter import Bucket, CalendarDay, Grant, InFlight, Later, Permit, Quota, Window
from limiter.quota.limits import guard_us
from limiter.quota.quota import Limit, cost_of
from tests.limiter.conftest import Rig, on_valkey

_PERIODS_US = st.sampled_from([100_000, 1_000_000, 1_000_003])
_LEASE_US = 500_000
_EXACT_MOST = 3  # larger windows are kept in slices, so that few calls reach them


@pytest.fixture(autouse=True)
def small_exact_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter.quota.limits, "EXACT_MOST", _EXACT_MOST)


@st.composite
def _rates(draw: st.DrawFn, unit: str) -> list[Limit]:
    """Two strict windows, one of them maybe in slices, a bucket and a day: whatever one unit can have."""
    return [
        Window(draw(st.integers(1, _EXACT_MOST)), draw(_PERIODS_US), unit),
        Window(draw(st.integers(2, 6)), draw(_PERIODS_US), unit),
        Bucket(draw(st.integers(1, 5)), draw(_PERIODS_US), draw(st.integers(1, 3)), unit),
        CalendarDay(draw(st.integers(3, 12)), "Asia/Shanghai", unit),
    ]


@st.composite
def _quotas(draw: st.DrawFn) -> list[Quota]:
    quotas = []
    for name in ("a", "b"):
        in_flight = InFlight(draw(st.integers(1, 6)), draw(st.sampled_from(["in_flight", "images"])))
        limits = [*draw(_rates("requests")), *draw(_rates("images")), in_flight]
        quotas.append(
            Quota(name, tuple(draw(st.lists(st.sampled_from(limits), unique=True, min_size=1, max_size=4))))
        )
    return quotas


@dataclass
class _Call:
    """A granted call as the provider would see it."""

    slot_us: int
    asked_us: int
    quotas: tuple[str, ...]
    costs: dict[str, int]
    permit: Permit
    ended_us: int | None = None
    counts_until_us: int = 0


@dataclass
class _Request:
    """One call that is requested until it is granted."""

    request_id: str
    quotas: list[Quota]
    costs: dict[str, int]
    denial: Later | None = None

    async def tried(self, rig: Rig, max_wait_s: float) -> Grant | Later:
        answer = await rig.request(
            *self.quotas,
            costs=self.costs,
            max_wait_s=max_wait_s,
            request_id=self.request_id,
            after=self.denial,
        )
        self.denial = answer if isinstance(answer, Later) else None
        return answer

    def granted(self, grant: Grant, now_us: int) -> _Call:
        slot_us = now_us + grant.wait_us
        names = tuple(quota.name for quota in self.quotas)
        return _Call(slot_us, now_us, names, self.costs, grant.permit, counts_until_us=slot_us + _LEASE_US)

    @property
    def reserved(self) -> _Call | None:
        """Its reservation as a call at its slot."""
        permit = self.denial and self.denial.reservation
        return _Call(permit.slot_us, 0, permit.quotas, self.costs, permit) if permit else None


_Step = tuple[str, int, str, dict[str, int], float, int]
_STEPS: st.SearchStrategy[list[_Step]] = st.lists(
    st.tuples(
        st.sampled_from(
            ["request"] * 9 + ["request again"] * 3 + ["give_back"] * 2 + ["release", "submitted", "penalise"]
        ),
        # Time moves by nothing, by a little, and to the very edges of the windows.
        st.sampled_from([0, 0, 0, 1, 7_000, 33_333, 55_000, 105_000, 510_000, 1_010_000]),
        st.sampled_from(["a", "a", "b", "ab"]),
        st.fixed_dictionaries({"requests": st.integers(0, 2), "images": st.integers(0, 3)}),
        st.sampled_from([0.0, 0.05, 2.0, 60.0]),
        st.integers(0, 1000),
    ),
    min_size=5,
    max_size=40,
)
_FLEXIBLE = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@on_valkey
@_FLEXIBLE
@given(quotas=_quotas(), steps=_STEPS, to_midnight_us=st.sampled_from([10**10, 4_000_000, 500_000]))
async def test_no_order_of_calls_gets_more_than_the_quota(
    server: Redis, quotas: list[Quota], steps: list[_Step], to_midnight_us: int
) -> None:
    rig = Rig(server, lease_s=_LEASE_US / 1e6)
    rig.time.now_us = rig.time.start_us = 1_794_931_200_000_000 - to_midnight_us  # midnight in Shanghai
    calls: list[_Call] = []
    refused: list[_Request] = []
    paused_until_us = 0
    for number, (action, pass_us, names, wanted, max_wait_s, pick) in enumerate(steps):
        rig.time.advance(pass_us)
        now_us = rig.time.now_us
        call = calls[pick % len(calls)] if calls else None
        if action in ("request", "request again"):
            if refused and action == "request again":
                request = refused.pop(pick % len(refused))
            else:
                chosen = [quota for quota in quotas if quota.name in names]
                costs = {unit: min(cost, _most(quotas, unit)) for unit, cost in wanted.items()}
                request = _Request(f"request-{number}", chosen, costs)
            answer = await request.tried(rig, max_wait_s)
            if isinstance(answer, Later):
                refused.append(request)
                continue
            assert answer.wait_us <= max_wait_s * 1e6
            call = request.granted(answer, now_us)
            assert "a" not in call.quotas or call.slot_us >= paused_until_us
            calls.append(call)
            _check_in_flight(request.quotas, calls, now_us)
        elif action == "penalise":
            await rig.limiter.penalise(Quota("a"), retry_after_s=pass_us / 1e6, reason="429")
            paused_until_us = max(paused_until_us, now_us + pass_us)
        elif call is None:
            pass
        elif action == "give_back":
            await rig.limiter.give_back(call.permit)
            calls.remove(call)
        elif action == "release":
            await rig.limiter.release(call.permit)
            call.counts_until_us = min(call.counts_until_us, now_us)
        elif call.counts_until_us > now_us:
            await rig.limiter.submitted(call.permit, longest_s=2)
            call.counts_until_us = max(call.counts_until_us, now_us + 2_000_000)
    calls += [reserved for request in refused if (reserved := request.reserved)]
    for quota in quotas:
        for limit in quota.limits:
            _check_rate(limit, [call for call in calls if quota.name in call.quotas])


def _most(quotas: list[Quota], unit: str) -> int:
    """The largest cost that every quota can grant."""
    weighed = [
        limit
        for quota in quotas
        for limit in quota.limits
        if getattr(limit, "weighed_by", limit.unit) == unit
    ]
    return min((limit.most for limit in weighed), default=9)


def _check_rate(limit: Limit, calls: list[_Call]) -> None:
    """Every interval that begins with a call and ends with one; every day."""
    uses = sorted((call.slot_us, call.costs[limit.unit]) for call in calls if call.costs.get(limit.unit))
    if isinstance(limit, InFlight):
        return
    if isinstance(limit, CalendarDay):
        days = [datetime.fromtimestamp(slot_us / 1e6, ZoneInfo(limit.zone)).date() for slot_us, _ in uses]
        for day in days:
            assert sum(cost for when, (_, cost) in zip(days, uses, strict=True) if when == day) <= limit.count
        return
    for first_us, _ in uses:
        for last_us in {slot_us for slot_us, _ in uses if slot_us >= first_us}:
            used = sum(cost for slot_us, cost in uses if first_us <= slot_us <= last_us)
            length_us = last_us - first_us
            if isinstance(limit, Bucket):
                assert (
                    used * limit.period_us
                    <= limit.burst * limit.period_us + max(0, length_us - limit.lag_us) * limit.count
                )
            elif isinstance(limit, Window) and length_us < limit.span_us:
                assert used <= limit.count


def _check_in_flight(quotas: list[Quota], calls: list[_Call], now_us: int) -> None:
    for quota in quotas:
        for limit in quota.limits:
            if isinstance(limit, InFlight):
                live = [c for c in calls if quota.name in c.quotas and c.counts_until_us > now_us]
                assert sum(cost_of(limit, call.costs) for call in live) <= limit.count


_EXACT_RATES: st.SearchStrategy[Limit] = st.one_of(
    st.builds(Window, st.integers(1, _EXACT_MOST), _PERIODS_US),
    st.builds(Bucket, st.integers(1, 5), _PERIODS_US, st.integers(1, 3)),
)
_PLACES: st.SearchStrategy[list[tuple[int, int]]] = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 2)), min_size=1, max_size=12
)


@on_valkey
@settings(_FLEXIBLE, max_examples=100)
@given(limit=_EXACT_RATES, earlier=_PLACES, cost=st.integers(1, 2))
async def test_a_slot_is_the_earliest_that_leaves_every_earlier_grant_its_place(
    server: Redis, limit: Limit, earlier: list[tuple[int, int]], cost: int
) -> None:
    """The oracle tries the moments at which something can change, one after the other."""
    rig = Rig(server)
    quota = Quota("q", (limit,))
    calls: list[_Call] = []
    for number, (place, units) in enumerate([*earlier, (0, cost)]):
        costs = {"requests": min(units, limit.most)}
        # A cooldown elsewhere is how a slot gets far away, and the next one may be before it.
        blocker = Quota(f"blocker-{number}", (InFlight(99),))
        far_us = place and 1_000_000 + place * 50_000  # above our own pause, which is a second
        if far_us:
            await rig.limiter.penalise(blocker, retry_after_s=far_us / 1e6, reason="429")
        answer = await rig.request(quota, blocker, costs=costs)
        assert isinstance(answer, Grant)
        from_us, slot_us = rig.time.now_us + far_us, rig.time.now_us + answer.wait_us
        assert slot_us >= from_us
        sooner = {from_us, *_moments(limit, calls, costs["requests"]), *range(from_us, slot_us, 50_000)}
        # A bucket that was left nearly full may be refilled up to a lag later than it would have to be.
        exact_us = slot_us - (limit.lag_us if isinstance(limit, Bucket) else 0)
        for moment_us in sooner:
            assert not from_us <= moment_us < exact_us or not _fits(limit, calls, moment_us, costs)
        calls.append(_Call(slot_us, 0, ("q",), costs, answer.permit))
    _check_rate(limit, calls)


def _moments(limit: Limit, calls: list[_Call], cost: int) -> set[int]:
    if isinstance(limit, Window):
        return {call.slot_us + limit.span_us for call in calls}
    if isinstance(limit, Bucket):
        step_us = -(-limit.period_us // limit.count)
        return {
            call.slot_us + n * step_us + lag_us
            for lag_us in (0, limit.lag_us)
            for call in calls
            for n in range(cost + limit.burst + 1)
        }
    return set()


def _fits(limit: Limit, calls: list[_Call], slot_us: int, costs: dict[str, int]) -> bool:
    try:
        _check_rate(limit, [*calls, _Call(slot_us, 0, ("q",), costs, calls[0].permit if calls else _NOBODYS)])
    except AssertionError:
        return False
    return True


_NOBODYS = Permit("r", "h", (), {}, (), "")


@pytest.mark.parametrize("late_us", [0, 4_999, 5_000])
async def test_arrivals_later_by_up_to_the_guard_still_fit_the_providers_window(
    rig: Rig, late_us: int
) -> None:
    quota = Quota("q", (Window(3, 500_000),))
    assert guard_us(500_000) == 5_000
    slots = [await rig.slot(quota) for _ in range(12)]
    # The worst case: everything in the earlier half of a pair is late, everything in the later half is not.
    for first, last in zip(slots, slots[3:], strict=False):
        assert last - (first + late_us) >= 500_000
