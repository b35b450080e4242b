"""Learning settles on what the provider grants, keeps close to it, and finds back; in Python and in Lua alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import limiter
from limiter.script import LuaScript
from tests.limiter.closed_loop import Scenario, run
from tests.limiter.conftest import on_valkey
from tests.limiter.learning.model import (
    LEAST_PPM,
    NEVER_US,
    PPM,
    UNKNOWN,
    Learned,
    Refused,
    Served,
    allowed,
    due_us,
    gap_us,
    next_state,
    refused,
    served,
    share,
)

W = 10_000_000
UNIT = share(1, 60)
START = 1_795_000_000_000_003


def _refused(at_us: int, used: int = UNKNOWN, *, sent_us: int | None = None, left: int = UNKNOWN) -> Refused:
    return Refused(at_us, at_us if sent_us is None else sent_us, at_us, used, left, UNIT, W)


def _served(at_us: int, used: int = PPM) -> Served:
    return Served(at_us, used, UNIT, W)


# --- one step ---


def test_a_quota_without_refusals_stays_as_configured_and_is_not_counted() -> None:
    state = Learned()
    assert due_us(state, W) == NEVER_US
    assert served(state, _served(START)) is state
    assert allowed(state.level, 60, W) == (60, W)


def test_the_accepted_count_is_the_quota_if_more_was_allowed() -> None:
    state = refused(Learned(), _refused(START, share(48, 60)))
    assert allowed(state.level, 60, W)[0] == 48


def test_a_full_log_shows_nothing_so_refusals_cost_3_and_then_30_percent() -> None:
    state = refused(Learned(), _refused(START, share(59, 60)))
    assert state.level == 970_000
    state = refused(state, _refused(START + W // 10, share(57, 60)))
    assert state.level == 679_000
    state = refused(state, _refused(START + W // 2, share(40, 60)))
    assert state.level == 475_300


def test_a_refusal_after_a_quiet_time_is_a_first_one_again() -> None:
    state = refused(Learned(), _refused(START))
    assert refused(state, _refused(START + 4 * W)).level == 970_000 * 970_000 // PPM


def test_calls_that_had_been_granted_by_the_last_cut_do_not_cut_again() -> None:
    seen = replace(_refused(START), newest_us=START + 300_000)
    state = refused(Learned(), seen)
    for sent_us in (START - W, START, START + 300_000):
        assert refused(state, _refused(START + 400_000, sent_us=sent_us)) is state
    assert refused(state, _refused(START + 400_000, sent_us=START + 300_001)).level < state.level


def test_calls_still_in_the_window_at_its_reopening_show_the_quota() -> None:
    state = refused(Learned(), _refused(START, share(59, 60), left=share(47, 60)))
    assert state.level == share(47, 60) + UNIT


def test_no_single_refusal_costs_more_than_30_percent() -> None:
    assert refused(Learned(), _refused(START, UNIT)).level == 700_000
    assert refused(Learned(), _refused(START, left=0)).level == 970_000
    assert refused(Learned(), _refused(START, left=1)).level == 700_000


def test_growth_waits_for_a_whole_window_that_was_busy() -> None:
    state = refused(refused(Learned(), _refused(START)), _refused(START + 1))
    since = state.since_us
    assert due_us(state, W) == since + W
    assert served(state, _served(since + W - 1)) is state
    assert served(state, _served(since + W, state.level * 8 // 10)) is state
    assert served(state, _served(since + W, state.level)).level > state.level


def test_growth_halves_the_way_to_the_refused_level_then_holds_ten_windows() -> None:
    state = refused(Learned(), _refused(START))
    state = refused(state, _refused(START + 1))
    at, rises = START + 1, []
    while due_us(state, W) <= at + W:
        at += W
        before, state = state.level, served(state, _served(at))
        rises.append(state.level - before)
    assert rises == sorted(rises, reverse=True)
    assert 0.95 < state.level / 970_000 < 1
    assert due_us(state, W) == state.since_us + 10 * W


def test_a_look_beyond_starts_small_doubles_and_is_taken_back_once_refused() -> None:
    held = Learned(
        level=500_000, good=500_000, base=400_000, top=500_000, since_us=START, hold_us=START + 10 * W
    )
    levels, state, at = [], held, START + 10 * W
    for _ in range(3):
        state = served(state, _served(at))
        levels.append(state.level)
        at += W
    assert levels == [500_000 + UNIT, 500_000 + 3 * UNIT, 500_000 + 7 * UNIT]
    assert state.base == 500_000
    full = refused(state, _refused(at, state.level - UNIT))
    assert full.level == full.top == 500_000 + 3 * UNIT
    # A bucket had paid for the rises: what seemed clean was not, so the rest of them goes too.
    again = refused(full, _refused(at + W // 2))
    assert again.level == (full.level + 500_000) // 2


def test_a_restored_quota_is_back_at_the_ceiling_and_no_further() -> None:
    state, at = Learned(500_000, 500_000, 500_000, 500_000, since_us=START, hold_us=START), START
    for _ in range(40):
        at += W
        state = served(state, _served(at))
    assert (state.level, state.base) == (PPM, PPM)
    assert due_us(state, W) == NEVER_US


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 60, 977, 100_000])
def test_a_share_of_units_is_the_same_units_again_in_nearly_the_same_span(count: int) -> None:
    for units in {1, count // 3, count // 2, count} - {0}:
        again, span = allowed(share(units, count), count, W)
        assert again == units
        assert W <= span <= W * (1 + count / units / PPM) + 2


@given(st.integers(LEAST_PPM, PPM), st.integers(1, 10**9), st.integers(1_000, 366 * 86_400_000_000))
def test_a_window_at_a_level_has_that_share_of_the_rate_to_the_microsecond(
    level: int, count: int, span: int
) -> None:
    units, longer = allowed(level, count, span)
    assert 1 <= units <= count
    assert longer >= span
    # units / longer = level / PPM * count / span, so `longer` is known; a double keeps 15 digits of it.
    exact = Fraction(units * PPM * span, level * count)
    assert abs(longer - exact) <= 1 + exact / 10**15


def test_slots_are_spread_evenly_once_refused_and_half_as_far_before() -> None:
    assert gap_us(Learned(), 60, 10_100_000) == 84_166
    assert gap_us(refused(Learned(), _refused(START)), 59, 10_100_000) == 171_186


# --- any steps ---

_UNITS = st.sampled_from([1, 1_000, UNIT, 50_000, 333_333, PPM])
# Where decisions turn: each is computed from the state that was reached, give or take one.
_AT = ("due", "forgiven", "hold", "soon", "later")
_SHARES = ("level", "less 1", "less 2", "good", "good and 2", "busy", "half", "none", "unknown")
_SENT = ("now", "epoch", "old")
_STEPS = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from(_AT),
        st.sampled_from(_SHARES),
        st.sampled_from(_SHARES),
        st.sampled_from(_SENT),
        st.integers(-1, 1),
    ),
    min_size=1,
    max_size=40,
)
_Step = tuple[bool, str, str, str, str, int]


@st.composite
def _starts(draw: st.DrawFn) -> tuple[Learned, int]:
    """A state with its distances at the places where decisions turn, and the unit they are counted in."""
    unit = draw(_UNITS)
    level = draw(st.integers(LEAST_PPM, PPM))
    off = draw(st.integers(-1, 1))
    near = [0, unit, 2 * unit, level // 50, level // 25]
    good = max(LEAST_PPM, level - max(0, draw(st.sampled_from(near)) + off))
    base = max(LEAST_PPM, good - max(0, draw(st.sampled_from([*near, level // 3])) + off))
    top = min(PPM, level + max(0, draw(st.sampled_from([*near, level // 3])) + off))
    since_us = START - draw(st.sampled_from([0, W, 3 * W, 11 * W]))
    step = draw(st.sampled_from([0, 10_000, unit]))
    fails = draw(st.integers(0, 2))
    return Learned(level, good, base, top, step, fails, since_us, since_us, since_us + 10 * W), unit


def _history(
    start: Learned, steps: list[_Step], unit: int
) -> Iterator[tuple[Refused | Served, Learned, Learned]]:
    """Each observation with the state before and after it; time never runs back."""
    state, now = start, START
    for is_refused, when, used, left, sent, off in steps:
        due = min(due_us(state, W), now + 20 * W)
        times = {
            "due": due,
            "forgiven": state.since_us + 3 * W,
            "hold": state.hold_us,
            "later": now + W + 100_000,
        }
        now = max(now + 1, times.get(when, 0) + off)
        before = state
        seen: Refused | Served
        if is_refused:
            sent_us = {"now": now, "epoch": state.epoch_us + off, "old": now - W // 3}[sent]
            newest_us = now + 1_000 * (off + 1)
            seen = Refused(
                now, sent_us, newest_us, _share(state, used, unit, off), _share(state, left, unit, 0), unit, W
            )
        else:
            seen = Served(now, max(0, _share(state, used, unit, off)), unit, W)
        state = next_state(state, seen)
        yield seen, before, state


def _share(state: Learned, which: str, unit: int, off: int) -> int:
    share_ppm = {
        "level": state.level,
        "less 1": state.level - unit,
        "less 2": state.level - 2 * unit,
        "good": state.good,
        "good and 2": state.good + 2 * unit,
        "busy": state.level * 9 // 10,
        "half": state.level // 2,
        "none": 0,
    }
    return max(0, share_ppm[which] + off) if which in share_ppm else UNKNOWN


@given(start=st.one_of(st.tuples(st.just(Learned()), _UNITS), _starts()), steps=_STEPS)
def test_any_observation_keeps_the_levels_bounds_and_the_records_form(
    start: tuple[Learned, int], steps: list[_Step]
) -> None:
    for seen, before, state in _history(start[0], steps, start[1]):
        assert LEAST_PPM <= state.level <= PPM
        assert 0 < state.base <= state.good <= state.level <= state.top <= PPM
        if isinstance(seen, Refused):
            assert state is before or state.level < before.level or state.level == LEAST_PPM
            assert state.level >= before.level * 7 // 10
        else:
            assert state.level >= before.level
        assert Learned.parse(str(state)) == Learned.parse(str(state).encode()) == state
        assert len(str(state)) <= 100


@pytest.mark.parametrize("text", ["", "1 2 3", "1 2 3 4 5 6 7 8 x", "1 2 3 4 5 6 7 8 9 10"])
def test_another_string_is_no_state(text: str) -> None:
    with pytest.raises(ValueError):
        Learned.parse(text)


# --- the twin in Lua ---

_DRIVER = """-- @include adapt
-- ARGV: the state ('' is none), then steps of eight: refused or served, and the fields of the observation.
local state, seen = adapt_read(ARGV[1] ~= '' and ARGV[1]), {}
for i = 2, #ARGV, 8 do
  local n = {}
  for k = 1, 7 do n[k] = tonumber(ARGV[i + k]) end
  local before, changed = adapt_text(state), nil
  if ARGV[i] == 'refused' then
    changed = adapt_refused(state, n[1], n[2], n[3], n[4], n[5], n[6], n[7])
  else
    changed = adapt_served(state, n[1], n[2], n[3], n[4])
  end
  if changed == false and adapt_text(state) ~= before then error('the state changed without a report') end
  state = adapt_read(adapt_text(state))
  local units, span = adapt_allowed(state.level, 977, 10100000)
  seen[#seen + 1] = {
    adapt_text(state), text(adapt_due(state, 10000000)), text(units), text(span), text(adapt_gap(state, units, span)),
    text(adapt_share(units, 977)),
  }
end
return seen
"""


@pytest.fixture
def adapt_lua(tmp_path: Path) -> LuaScript:
    """The include in a script of its own, loaded as the package's scripts are."""
    source = Path(limiter.__file__).parent / "scripts"
    (tmp_path / "include").symlink_to(source / "include")
    (tmp_path / "drive.lua").write_text(_DRIVER)
    return LuaScript.load(tmp_path, "drive")


@on_valkey
@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(start=_starts(), steps=_STEPS)
async def test_the_lua_twin_makes_the_same_states(
    server: Redis, adapt_lua: LuaScript, start: tuple[Learned, int], steps: list[_Step]
) -> None:
    state, unit = start
    history = list(_history(state, steps, unit))
    args = [str(state)] + [field for seen, _, _ in history for field in _row(seen)]
    assert await adapt_lua(server, [], args) == [_figures(state) for _, _, state in history]


@pytest.mark.parametrize("name", ["sliding", "fixed", "bucket", "sliding, Retry-After", "others"])
async def test_the_lua_twin_agrees_along_a_whole_run(redis: Redis, adapt_lua: LuaScript, name: str) -> None:
    scenario = _CUTS.get(name, Scenario(changes=(), external=0.3, last_s=600))
    seen = run(scenario, seed=1).observations
    assert any(isinstance(each, Refused) for each in seen)
    states, state = [], Learned()
    for each in seen:
        state = next_state(state, each)
        states.append(_figures(state))
    assert await adapt_lua(redis, [], [""] + [field for each in seen for field in _row(each)]) == states


def _row(seen: Refused | Served) -> list[str | int]:
    """One step of the driver."""
    if isinstance(seen, Served):
        return ["served", seen.at_us, seen.used, seen.unit, seen.period_us, 0, 0, 0]
    times = (seen.now_us, seen.sent_us, seen.newest_us)
    return ["refused", *times, seen.used, seen.left, seen.unit, seen.period_us]


def _figures(state: Learned) -> list[bytes]:
    """The driver's reply to a step."""
    units, span = allowed(state.level, 977, 10_100_000)
    figures = (due_us(state, W), units, span, gap_us(state, units, span), share(units, 977))
    return [str(each).encode() for each in (state, *figures)]


def test_the_lua_twin_has_no_function_that_the_test_above_does_not_run(adapt_lua: LuaScript) -> None:
    defined = set(re.findall(r"^local function (adapt_\w+)", adapt_lua._whole, re.MULTILINE))
    used = set(re.findall(r"\b(adapt_\w+)\(", adapt_lua._whole.split("-- ARGV: the state")[1]))
    assert defined - used == {"adapt_part", "adapt_cut"}


# --- the closed loop ---

SEEDS = range(15)

_SECOND = Scenario(count=20, period_s=1, changes=((20, 10),), last_s=60)
_FOUR = Scenario(count=40, period_s=4, changes=((20, 20),), last_s=140)
_MINUTE = Scenario(count=120, period_s=60, changes=((200, 60),), last_s=1600)
_BUCKET = Scenario("bucket", capacity=5)
_DEEP = Scenario("bucket", capacity=30)
_CUTS = {
    "sliding": Scenario(),
    "sliding, refused count": Scenario(counts_refused=True),
    "sliding, Retry-After": Scenario(retry_after="exact"),
    "sliding, Retry-After in seconds": Scenario(retry_after="seconds", counts_refused=True),
    "sliding, 20/s": _SECOND,
    "sliding, 40/4s": _FOUR,
    "sliding, 120/min": _MINUTE,
    "sliding, slow answers": Scenario(rtt_ms=(100, 300)),
    "fixed": Scenario("fixed"),
    "fixed, refused count": Scenario("fixed", counts_refused=True),
    "fixed, Retry-After": Scenario("fixed", retry_after="exact"),
    "fixed, 20/s": replace(_SECOND, kind="fixed"),
    "fixed, 120/min": replace(_MINUTE, kind="fixed"),
    "bucket": _BUCKET,
    "bucket, Retry-After": replace(_BUCKET, retry_after="exact"),
    "bucket, 20/s": replace(_SECOND, kind="bucket"),
    "deep bucket": _DEEP,
    "deep bucket, Retry-After in seconds": replace(_DEEP, retry_after="seconds"),
}


@pytest.mark.parametrize("name", _CUTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_quota_cut_to_half_is_found_within_ten_refusals_and_five_periods(name: str, seed: int) -> None:
    scenario = _CUTS[name]
    [(cut_s, _)] = scenario.changes
    settled_s = cut_s + 5 * scenario.period_s
    outcome = run(scenario, seed)
    assert outcome.refused_in(cut_s, settled_s) <= 10
    # A deep bucket may still hand out what it saved, so more than its rate is possible for a while.
    assert outcome.utilisation(settled_s, scenario.last_s) >= 0.95
    assert outcome.utilisation(settled_s, settled_s + 5 * scenario.period_s) >= 0.85
    periods = (scenario.last_s - settled_s) / scenario.period_s
    assert outcome.refused_in(settled_s, scenario.last_s) <= 1 + periods * 0.35


@pytest.mark.parametrize("kind", ["sliding", "fixed", "bucket"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_restored_quota_is_used_again_within_twenty_periods(kind: Any, seed: int) -> None:
    outcome = run(Scenario(kind, changes=((20, 30), (200, 60)), last_s=500), seed)
    assert outcome.utilisation(400, 500) >= 0.97
    assert outcome.refused_in(400, 500) <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_beside_others_refusals_are_rare_and_most_of_the_rest_is_used(seed: int) -> None:
    outcome = run(Scenario(changes=(), external=0.3, last_s=600), seed)
    assert outcome.utilisation(50, 600) >= 0.8
    assert outcome.refused_in(50, 600) / 55 <= 0.35


@pytest.mark.parametrize("seed", SEEDS)
def test_late_arrivals_beyond_the_guard_cost_little(seed: int) -> None:
    outcome = run(Scenario(changes=(), jitter_ms=150, last_s=300), seed)
    assert outcome.utilisation(50, 300) >= 0.96
    assert outcome.refused_in(0, 300) <= 6


def test_a_log_that_may_burst_is_refused_in_bursts() -> None:
    assert run(Scenario(spread=False), 0).refused_in(20, 70) > 30


def test_grants_far_ahead_are_refused_before_anything_is_learned() -> None:
    assert run(Scenario(ahead_s=2.0), 0).refused_in(20, 70) > 20
