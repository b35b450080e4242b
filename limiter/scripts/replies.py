"""What a reply of acquire.lua means; everything here is pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from limiter.learning.adaptive import PPM
from limiter.permit import Grant, Later, Permit, Scale
from limiter.plan import Plan


def granted_of(plan: Plan, holder: str, request_id: str, wait_us: int, words: Sequence[str]) -> Grant:
    """The grant that a reply means: `words` are its grant id, epoch, when granted, slot, changes, what is left."""
    grant_id, _, granted_us, slot_us, changes, left = words
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
        left={(quota, limit): int(rest) for quota, limit, rest in _threes(left)},
    )
    return Grant(
        permit,
        wait_us,
        tuple(Scale(quota, int(old) / PPM, int(new) / PPM) for quota, old, new in _threes(changes)),
    )


def later_of(plan: Plan, holder: str, request_id: str, retry_us: int, words: Sequence[str]) -> Later:
    """The refusal that a reply means: `words` are its bound, epoch, and of a turn its grant id and slot."""
    bound, _, grant_id, slot_us, *_ = words
    if not grant_id:
        return Later(retry_us, bound)
    return Later(
        retry_us,
        bound,
        Permit(request_id, holder, plan.names, plan.costs, (), grant_id, slot_us=int(slot_us)),
    )


def _threes(text: str) -> Iterator[tuple[str, str, str]]:
    words = iter(text.split())
    return zip(words, words, words, strict=True)
