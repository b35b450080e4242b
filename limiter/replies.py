"""What a reply of acquire.lua means; everything here is pure."""

from __future__ import annotations

from collections.abc import Iterator

from limiter.adaptive import PPM
from limiter.permit import Grant, Permit, Scale
from limiter.plan import Plan


def granted_of(
    plan: Plan,
    holder: str,
    request_id: str,
    wait_us: int,
    grant_id: str,
    granted_us: str,
    slot_us: str,
    changes: str,
    left: str,
) -> Grant:
    """The grant that a reply of acquire.lua means."""
    permit = Permit(
        request_id,
        holder,
        plan.names,
        plan.costs,
        tuple(plan.leased),
        grant_id,
        tuple(plan.leased.values()),
        granted_us=int(granted_us),
        slot_us=int(slot_us),
        left={(quota, limit): int(rest) for quota, limit, rest in _threes(left)} if left else {},
    )
    scales = (Scale(quota, int(old) / PPM, int(new) / PPM) for quota, old, new in _threes(changes))
    return Grant(permit, wait_us, tuple(scales) if changes else ())


def _threes(text: str) -> Iterator[tuple[str, str, str]]:
    words = iter(text.split())
    return zip(words, words, words, strict=True)
