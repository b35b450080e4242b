"""The learning of include/adapt.lua once more, in Python: a test holds the two together, and the closed loop runs it.

Pure integer arithmetic without a clock: `refused` and `served` make the next state. adapt.lua explains each step.
Levels are ppm of the configured quota; times are µs of the limiter's clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

PPM: Final = 1_000_000
LEAST_PPM: Final = 10_000

# A first refusal after a quiet time may be jitter and costs 3 %; another one before a clean window means that
# the quota is another one, and costs 30 %. Cuts of 30 % alone would give 7.5 % of the rate away for ever: that
# is what lies between CUBIC's curve and its plateau from one cut to the next.
FINE_PPM: Final = 970_000
COARSE_PPM: Final = 700_000
# A window in which a smaller share of the level was used shows nothing about the rest.
BUSY_PPM: Final = 900_000
# Nearer than this to a level that was refused, looking closer costs more 429s than it gains.
CLOSE_PPM: Final = 20_000
# The first step beyond it: one call a window, but not less than a hundredth and not more than a twentieth.
LEAST_STEP_PPM: Final = 10_000
MOST_STEP_PPM: Final = 50_000
HOLD_PERIODS: Final = 10
# A refusal has come home by then, and has called everybody back.
ANSWER_US: Final = 250_000
FORGIVEN_PERIODS: Final = 3

UNKNOWN: Final = -1
NEVER_US: Final = 2**53


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of one quota; `Learned()`, the first state, is the configured quota itself.

    `level` is the multiplier now, `good` the last level that carried a full busy window, `base` the last one
    that was held for HOLD_PERIODS, `top` the level at which a refusal is expected (growth halves the distance
    to it), `step` the last rise beyond `top` (0: none), `fails` the cuts since the last clean window. `since_us`
    is when the level last changed (0: never), `epoch_us` the newest slot that had been granted by the last
    cut, `hold_us` when the next look beyond `top` is due.
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
        """What Redis keeps: nine whole numbers, at most about 100 characters."""
        fields = (self.level, self.good, self.base, self.top, self.step, self.fails)
        return " ".join(map(str, (*fields, self.since_us, self.epoch_us, self.hold_us)))

    @classmethod
    def parse(cls, text: str | bytes) -> Learned:
        """What `str` wrote, here or in Lua. Errors: ValueError."""
        fields = [int(field) for field in text.split()]
        if len(fields) != 9:
            raise ValueError(f"a learned quota is nine whole numbers, not {len(fields)}")
        return cls(*fields)


@dataclass(frozen=True, slots=True)
class Refused:
    """A 429 for a rate. Shares are ppm of the configured count; of several limits, of the one with the largest.

    `sent_us` is the slot of the refused call, `newest_us` the newest slot granted so far. `used` is what had been
    accepted in the limit's span that ends at `sent_us`, without the call itself. `left` is the part of it that is
    still in the provider's window when its own Retry-After is over: all but one of what it really allows. Both
    are UNKNOWN where nothing can tell (a token bucket keeps no log). `unit` is the share of one call.
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
    """A grant at the slot `at_us`; `used` is what the limit's span that ends there holds, this grant included.

    Where no log can tell (a token bucket), `used` is the level itself if the grant had to wait, else 0.
    """

    at_us: int
    used: int
    unit: int
    period_us: int


def next_state(state: Learned, seen: Refused | Served) -> Learned:
    """The state after an observation; the same object if it says nothing new."""
    return refused(state, seen) if isinstance(seen, Refused) else served(state, seen)


def refused(state: Learned, seen: Refused) -> Learned:
    """Cut, once for all calls that had been granted by then."""
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

    Steps double as long as none is refused, so a quota that was restored is found in a few windows, and one
    that was not costs one refusal a hold.
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
    """Before this slot `served` changes nothing, so nobody needs to count the log."""
    if state.good < state.level or state.fails > 0:
        return state.since_us + period_us
    return state.hold_us if state.base < PPM else NEVER_US


def share(units: int, count: int) -> int:
    """`units` of a configured `count` in ppm; `allowed` makes the same units of it."""
    return units * PPM // count


def allowed(level: int, count: int, span_us: int) -> tuple[int, int]:
    """A window of `count` in `span_us` at this level: so many units, in so long a span.

    The span grows by what rounding the units up would give away; so 97 % of 1 a minute is 1 in 62 s.
    """
    scaled = level * count
    units = -(-scaled // PPM)
    # A quotient first: the product of all three is more than a double holds exactly.
    return units, math.ceil(span_us * (units * PPM / scaled))


def gap_us(state: Learned, units: int, span_us: int) -> int:
    """The least distance of two slots of a window that learns; `units` and `span_us` as `allowed` made them.

    Calls that leave in one instant are refused in one instant, before anything is learned from the first. A
    quota that was never refused may use up its window in half of its time, and need not wait for longer than an
    answer takes; after that it is spread evenly, which costs no throughput and suits providers that refill
    continuously, too.
    """
    even = span_us // units
    return even if state.since_us > 0 else min(even // 2, ANSWER_US)


def _cut(state: Learned, seen: Refused, *, again: bool) -> tuple[int, int]:
    """The next level, and where the next refusal is expected.

    Where fewer calls than allowed had been accepted, their number is the quota. Where the log is as full as
    allowed it shows nothing, and soon after another cut it still holds what was granted before that one; then a
    rise that failed is taken back, next all rises since the last hold, and a share is cut where there is none.
    No single refusal costs more than the coarse share, since some are mistaken for a rate's.
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
