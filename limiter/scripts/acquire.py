"""One question for a permit as acquire.lua wants it, and what its answer means; the step behind `Limiter.acquire`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limiter.lua import LuaScript
from limiter.permit import Grant, Later
from limiter.plan import Plan
from limiter.quota.limits import QuotaError
from limiter.scripts import replies
from limiter.server import Server, text_of

_ACQUIRE: Final = LuaScript.load(Path(__file__).parent, "acquire")

_OTHER_DAY: Final = 2  # acquire.lua: the server's day is none of those it was told of
_LONGEST_WAIT_S: Final = 366 * 86_400  # so that infinity is a number of µs
_DETAILS: Final = 6  # words that an answer has at most behind its first two


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks for what; `grant_id` is that of the grant or turn that it may lead to."""

    plan: Plan
    holder: str
    request_id: str
    grant_id: str
    max_wait_s: float
    lease_us: int
    wants_turn: bool = False


async def ask(server: Server, question: Question) -> Grant | Later:
    """See Limiter.acquire. Errors: QuotaError where the server's clock moves between days."""
    plan = question.plan
    keys = (plan.keys[0], server.keys.permit(plan.names[0], question.request_id), *plan.keys[2:])
    for _ in range(2):
        granted, amount_us, *detail = await _ACQUIRE(server.client, keys, _args(server, question))
        if granted != _OTHER_DAY:
            break
        # This process's clock is days away from the server's, which alone decides.
        server.is_at(int(amount_us))
    else:
        raise QuotaError("the server's clock moves between days; calendar days cannot be counted")
    # A table of Lua ends before its first nil: where nothing stands in the way, as `explain` can hear, no bound.
    words = [*(text_of(each) for each in detail), *[""] * (_DETAILS - len(detail))]
    server.epoch = words[1] or server.epoch
    read = replies.granted_of if granted else replies.later_of
    return read(question.plan, question.holder, question.request_id, int(amount_us), words)


def _args(server: Server, question: Question) -> tuple[str | int, ...]:
    return (
        server.now_us(),
        round(min(question.max_wait_s, _LONGEST_WAIT_S) * 1e6),
        question.lease_us,
        question.grant_id,
        question.request_id,
        question.holder,
        server.epoch,
        int(question.wants_turn),
        *question.plan.heads,
        *question.plan.rows_at(server.wall_us()),
    )
