"""The bell's messages about quotas recall the right unused permits."""

from __future__ import annotations

import asyncio

import pytest

from limiter import Permit, Recalls


class _Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _permit(*quotas: str, granted_us: int = 1_000, slot_us: int = 0) -> Permit:
    return Permit("r", "h", quotas, {}, (), "g", granted_us=granted_us, slot_us=slot_us)


def test_a_recall_covers_earlier_grants_under_its_quota() -> None:
    recalls = Recalls(_Clock())
    assert recalls.note("quota a 1000")
    assert recalls.covers(_permit("a", granted_us=1_000), 100.0)
    assert recalls.covers(_permit("b", "a", granted_us=999), 100.0)
    assert not recalls.covers(_permit("a", granted_us=1_001), 100.0)
    assert not recalls.covers(_permit("b", granted_us=1), 100.0)
    recalls.note("quota a 500")
    assert recalls.covers(_permit("a", granted_us=1_000), 100.0), "an older recall takes no newer one back"


def test_a_late_call_recalls_later_slots_that_were_granted_before_it() -> None:
    recalls = Recalls(_Clock())
    recalls.note("quota a 2000 2000")
    assert recalls.covers(_permit("a", granted_us=2_000, slot_us=2_001), 100.0)
    assert not recalls.covers(_permit("a", granted_us=1_000, slot_us=2_000), 100.0)
    assert not recalls.covers(_permit("a", granted_us=2_001, slot_us=3_000), 100.0)
    recalls.note("quota a 4000 4000")
    assert recalls.covers(_permit("a", granted_us=1_000, slot_us=2_001), 100.0), "the first recall stays"
    assert not recalls.covers(_permit("a", granted_us=2_500, slot_us=4_000), 100.0)


def test_hundreds_of_late_calls_recall_their_own_followers_alone() -> None:
    clock = _Clock()
    recalls = Recalls(clock)
    recalls.note("quota a")
    clock.now_s = 101.0
    for at_us in range(1_000, 9_000, 10):
        recalls.note(f"quota a {at_us} {at_us}")
    for us in range(1_000, 9_000, 10):
        assert recalls.covers(_permit("a", granted_us=us, slot_us=us + 1), 101.0)
        assert not recalls.covers(_permit("a", granted_us=us + 1, slot_us=us + 9), 101.0)
        assert not recalls.covers(_permit("a", granted_us=us, slot_us=us + 1), 101.1), "requested after it"


def test_a_change_covers_requests_before_it_was_noted() -> None:
    clock = _Clock()
    recalls = Recalls(clock)
    recalls.note("quota a")
    clock.now_s = 101.0
    assert recalls.covers(_permit("a"), 100.0)
    assert not recalls.covers(_permit("a"), 100.5)
    assert not recalls.covers(_permit("b"), 99.0)


def test_after_a_gap_every_earlier_request_is_recalled() -> None:
    clock = _Clock()
    recalls = Recalls(clock)
    recalls.note_gap()
    assert recalls.covers(_permit("a"), 100.0)
    assert not recalls.covers(_permit("a"), 100.1)
    assert not recalls.covers(_permit(), 99.0), "a call without quotas has nothing to recall"


@pytest.mark.parametrize("message", ["work default", "slot w1 w2", "cancel t/a", "", "quotas a"])
def test_messages_on_other_topics_are_ignored(message: str) -> None:
    assert not Recalls(_Clock()).note(message)


async def test_a_sleeper_wakes_for_its_own_recall_only() -> None:
    recalls = Recalls()
    now = asyncio.get_running_loop().time()
    sleeping = asyncio.create_task(recalls.sleep(_permit("a"), now, now + 3600))
    await asyncio.sleep(0)
    for message in ("quota b", "quota a 999"):
        recalls.note(message)
        await asyncio.sleep(0)
    assert not sleeping.done()
    recalls.note("quota a 1000")
    assert await asyncio.wait_for(sleeping, 5) is False
    assert await recalls.sleep(_permit("b"), now + 1e6, now - 1) is True


def test_a_recall_never_covers_a_later_request() -> None:
    """Even if its time is earlier: the clock may have been set, or the state lost."""
    clock = _Clock()
    recalls = Recalls(clock)
    recalls.note("quota a 9000000000000000")
    clock.now_s = 100.5
    assert recalls.covers(_permit("a"), 100.0)
    assert not recalls.covers(_permit("a"), 100.1)
