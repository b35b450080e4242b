"""A second implementation of include/adapt.lua, in Python: a test compares the two, and the closed loop runs this one.

Pure integer arithmetic without a clock: `refused` and `served` make the next state. adapt.lua explains each step.
Levels are ppm of the configured quota; times are µs of the limiter's clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

PPM: Final = 1_000_000
LEAST_PPM: Final = 10_000

# A first refusal after a quiet time may be jitter and costs 3 %. Another one before a clean window shows a smaller
# quota and costs 30 %. If every cut were 30 %, 7.5 % of the rate would be lost for ever: the area between CUBIC's
# curve and its plateau from one cut to the next.
FINE_PPM: Final = 970_000
COARSE_PPM: Final = 700_000
# A window that used a smaller share of its level shows nothing about the rest.
BUSY_PPM: Final = 900_000
# At this distance from a refused level, a closer search costs more 429s than it gains.
CLOSE_PPM: Final = 20_000
# The first step beyond the refused level is one call a window, within these bounds.
LEAST_STEP_PPM: Final = 10_000
MOST_STEP_PPM: Final = 50_000
HOLD_PERIODS: Final = 10
# Within this time a refusal is reported and recalls every grant.
ANSWER_US: Final = 250_000
FORGIVEN_PERIODS: Final = 3

UNKNOWN: Final = -1
NEVER_US: Final = 2**53


@dataclass(frozen=True, slots=True)
class Learned:
    """The learned state of one quota; `Learned()`, the first state, is the configured quota itself.

    `level` is the multiplier now, `good` the last level that carried a full busy window, `base` the last level kept
    for HOLD_PERIODS. `top` is the level of the next expected refusal (growth halves the distance to it), `step` the
    last rise beyond `top` (0: none), `fails` the cuts since the last clean window. `since_us` is the time of the last
    change of the level (0: never), `epoch_us` the newest slot that was granted before the last cut, `hold_us` the
    time of the next try beyond `top`.
    """

    level: int = PPM
    good: int = PPM
    base: int = PPM
    top: int = PPM
    step: int = 0
    fails: int = 0
    since_us: int = 0
    epoch_us: int = 0
    hold_us: int = 0

    def __str__(self) -> str:
        """The text in Redis: nine whole numbers, at most about 100 characters."""
        fields = (self.level, self.good, self.base, self.top, self.step, self.fails)
        return " ".join(map(str, (*fields, self.since_us, self.epoch_us, self.hold_us)))

    @classmethod
    def parse(cls, text: str | bytes) -> Learned:
        """The state of a text that `str` or Lua wrote. Errors: ValueError."""
        fields = [int(field) for field in text.split()]
        if len(fields) != 9:
            raise ValueError(f"a learned quota is nine whole numbers, not {len(fields)}")
        return cls(*fields)


@dataclass(frozen=True, slots=True)
class Refused:
    """A 429 for a rate. Shares are ppm of the configured count; with several limits, of the one with the largest share.

    `sent_us` is the slot of the refused call, `newest_us` the newest slot granted so far. `used` is the accepted share
    in the limit's span that ends at `sent_us`, without the call itself. `left` is the part of it that is still in the
    provider's window when its Retry-After is over: one call less than the real limit. Both are UNKNOWN for a token
    bucket, which keeps no log. `unit` is the share of one call.
    """

    now_us: int
    sent_us: int
    newest_us: int
    used: int
    left: int
    unit: int
    period_us: int


@dataclass(frozen=True, slots=True)
class Served:
    """A grant at the slot `at_us`; `used` is the share in the limit's span that ends there, this grant included.

    For a token bucket `used` is the level itself if the grant had to wait, else 0.
    """

    at_us: int
    used: int
    unit: int
    period_us: int


def next_state(state: Learned, seen: Refused | Served) -> Learned:
    """The state after an observation; the same object if nothing changed."""
    return refused(state, seen) if isinstance(seen, Refused) else served(state, seen)


def refused(state: Learned, seen: Refused) -> Learned:
    """Cut once for all calls that were granted before."""
    if seen.sent_us <= state.epoch_us:
        return state
    again = state.fails > 0 and seen.now_us - state.since_us <= FORGIVEN_PERIODS * seen.period_us
    level, top = _cut(state, seen, again=again)
    return Learned(
        level=level,
        good=level,
        base=min(state.base, level),
        top=max(top, level),
        step=0,
        fails=state.fails + 1 if again else 1,
        since_us=seen.now_us,
        epoch_us=max(seen.now_us, seen.newest_us),
        hold_us=seen.now_us + HOLD_PERIODS * seen.period_us,
    )


def served(state: Learned, seen: Served) -> Learned:
    """Rise after each full window that was busy and clean: half-way to `top`, later in steps beyond it.

    Steps double until a refusal, so a restored quota is found in a few windows, and a quota that stays cut costs one
    refusal a hold.
    """
    level = state.level
    if seen.at_us < due_us(state, seen.period_us) or seen.used < _part(level, BUSY_PPM):
        return state
    held = seen.at_us >= state.hold_us
    clean = replace(state, good=level, fails=0, base=level if held else state.base)
    if level >= PPM:
        return replace(clean, step=0)
    gap = state.top - level
    step = 0
    if state.step > 0:
        rise = step = 2 * state.step
    elif gap > max(seen.unit, _part(level, CLOSE_PPM)):
        rise = (gap + 1) // 2
    elif held:
        rise = step = max(LEAST_STEP_PPM, min(seen.unit, MOST_STEP_PPM))
    else:
        return clean
    higher = min(PPM, level + rise)
    return replace(
        clean,
        level=higher,
        top=max(state.top, higher),
        step=step,
        since_us=seen.at_us,
        hold_us=seen.at_us + HOLD_PERIODS * seen.period_us,
    )


def due_us(state: Learned, period_us: int) -> int:
    """Before this slot `served` changes nothing, so the log need not be counted."""
    if state.good < state.level or state.fails > 0:
        return state.since_us + period_us
    return state.hold_us if state.base < PPM else NEVER_US


def share(units: int, count: int) -> int:
    """`units` of a configured `count` in ppm; `allowed` turns that back into the same units."""
    return units * PPM // count


def allowed(level: int, count: int, span_us: int) -> tuple[int, int]:
    """The units and the span of a window of `count` in `span_us` at this level.

    Units are rounded up, and the span grows to match: 97 % of 1 a minute is 1 in 62 s.
    """
    scaled = level * count
    units = -(-scaled // PPM)
    # Divide first: a double does not hold the product of all three exactly.
    return units, math.ceil(span_us * (units * PPM / scaled))


def gap_us(state: Learned, units: int, span_us: int) -> int:
    """The least distance of two slots of a window that learns; `units` and `span_us` as `allowed` made them.

    Calls that leave together are refused together, before the first refusal teaches anything. A quota without a
    refusal may use up its window in half of its time, and two calls need no more distance than an answer takes. After
    a refusal calls are spread evenly, which costs no throughput and also suits providers that refill continuously.
    """
    even = span_us // units
    return even if state.since_us > 0 else min(even // 2, ANSWER_US)


def _cut(state: Learned, seen: Refused, *, again: bool) -> tuple[int, int]:
    """The next level, and the level of the next expected refusal.

    If fewer calls than allowed were accepted, their number is the quota. A full log shows nothing, and soon after
    another cut the log still holds grants from before that cut. Then the cut takes back the last rise; next, all rises
    since the last hold; if there is none, it takes a share. No single refusal costs more than the coarse share, since
    some refusals are mistaken for a rate's.
    """
    level = state.level
    found = True
    sure = 2 * seen.unit
    if not again and (0 < seen.used <= level - sure or state.good <= seen.used < level <= state.good + sure):
        cut = seen.used
    elif not again and state.good < level:
        cut, found = state.good, state.step > 0
    elif again and state.base < level:
        cut = state.base if level - state.base <= _part(level, 2 * CLOSE_PPM) else (state.base + level) // 2
    elif seen.left > 0:
        cut, found = min(seen.left + seen.unit, _part(level, FINE_PPM)), False
    else:
        cut, found = _part(level, COARSE_PPM if again else FINE_PPM), False
    if seen.used > 0:
        cut = min(cut, seen.used)
    cut = max(cut, _part(level, COARSE_PPM), LEAST_PPM)
    return cut, cut if found else level


def _part(level: int, ppm: int) -> int:
    return level * ppm // PPM
