"""The configuration changes while limits are in use: what was used stays used, whatever the new kind is."""

from __future__ import annotations

import pytest

import limiter.limits
from limiter import Grant, Later, Quota, parse_quota

from .conftest import Rig

S = 1_000_000
MIDNIGHT_US = 1_795_305_600_000_000  # 2026-11-22 00:00 UTC


@pytest.fixture(autouse=True)
def small_exact_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter.limits, "EXACT_MOST", 20)


def _quota(spec: object) -> Quota:
    return parse_quota("api", {"requests": spec})


WINDOW = "10/20s"
SLICES = "30/20s"
BUCKET = {"rate": "10/20s", "burst": 10}
DAY = {"rate": "12/day", "reset": "UTC"}


async def _granted_now(rig: Rig, quota: Quota) -> int:
    """How many calls are granted at this moment."""
    granted = 0
    while isinstance(await rig.ask(quota, max_wait_s=0), Grant):
        granted += 1
    return granted


@pytest.mark.parametrize(
    ("before", "used", "after", "left"),
    [
        (WINDOW, 10, "4/20s", 0),
        (WINDOW, 4, "6/20s", 2),
        (WINDOW, 10, "15/20s", 5),
        (WINDOW, 4, SLICES, 26),
        (SLICES, 30, WINDOW, 0),
        (SLICES, 3, WINDOW, 4),  # its slice has not ended: each is counted at both ends
        ("25/20s", 8, "40/60s", 24),  # as above
        (WINDOW, 4, BUCKET, 0),
        (BUCKET, 3, WINDOW, 0),
        (WINDOW, 4, DAY, 8),
        (SLICES, 2, DAY, 8),
        (DAY, 5, WINDOW, 5),
        (DAY, 5, BUCKET, 0),
    ],
)
async def test_a_limit_that_was_changed_knows_what_was_used(
    rig: Rig, before: object, used: int, after: object, left: int
) -> None:
    rig.time.now_us = rig.time.start_us = MIDNIGHT_US + 3600 * S
    for _ in range(used):
        assert isinstance(await rig.ask(_quota(before), max_wait_s=0), Grant)
    assert await _granted_now(rig, _quota(after)) == left


@pytest.mark.parametrize("after", [WINDOW, SLICES, BUCKET], ids=["window", "slices", "bucket"])
@pytest.mark.parametrize("before", [WINDOW, SLICES, BUCKET, DAY], ids=["window", "slices", "bucket", "day"])
async def test_a_changed_limit_grants_in_full_again_after_its_period(
    rig: Rig, before: object, after: object
) -> None:
    rig.time.now_us = rig.time.start_us = MIDNIGHT_US + 3600 * S
    old, new = _quota(before), _quota(after)
    for _ in range(8):
        await rig.ask(old, max_wait_s=0)
    await rig.ask(new, max_wait_s=0)
    rig.time.advance(21 * S)
    assert await _granted_now(rig, new) == new.limits[0].count


async def test_changing_forth_and_back_forgets_nothing(rig: Rig) -> None:
    window, bucket = _quota(WINDOW), _quota({"rate": "10/s", "burst": 10})
    for _ in range(5):
        await rig.slot(window)
    await rig.ask(bucket, max_wait_s=0)
    rig.time.advance(2 * S)
    assert await _granted_now(rig, bucket) == 10
    assert await _granted_now(rig, window) == 0


async def test_a_unit_that_loses_one_of_two_limits_keeps_the_others_books(rig: Rig) -> None:
    both = _quota([WINDOW, BUCKET])
    for _ in range(10):
        await rig.slot(both)
    assert isinstance(await rig.ask(_quota(WINDOW), max_wait_s=0), Later)
    assert isinstance(await rig.ask(_quota(BUCKET), max_wait_s=0), Later)
