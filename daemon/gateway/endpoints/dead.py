"""Dead letters: entries that were refused, and items that were given up."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from daemon.gateway.answering.problems import Problem, not_found
from daemon.gateway.callers.access import ADMINISTERS, Admin
from daemon.gateway.gateway import Here
from daemon.gateway.requests.parameters import ident_of, whole_number
from daemon.gateway.work.answers import answer
from daemon.queue.dead_letters import DeadLetters, Retried

router = APIRouter(tags=["dead letters"])

MOST = 1000
MOST_BYTES = 8 * 1024**2  # of originals in an answer; the letter that exceeds it is the last one


@router.get("/v1/dead")
async def dead(
    here: Here, caller: Admin, reason: str | None = None, tenant: str | None = None, limit: str | None = None
) -> Response:
    """The newest dead letters, with the fields of the original; credentials are never kept."""
    most = whole_number("limit", limit, 100, 1, MOST)
    wanted = ident_of(caller.tenant_for(tenant)) if tenant is not None else None
    letters = DeadLetters(here.redis, here.keys)
    found = await letters.newest(most, reason=reason, tenant=wanted, most_bytes=MOST_BYTES)
    # The search for credentials and for the place of a fault reads all of it: other requests must not wait.
    return await asyncio.to_thread(lambda: answer({"dead": [letter.as_dict() for letter in found]}))


@router.post("/v1/dead/{ident}/retry", status_code=202, dependencies=[ADMINISTERS])
async def retry(here: Here, ident: str) -> Response:
    """Try the work behind a dead letter again; a repeat does it once."""
    letters = DeadLetters(here.redis, here.keys)
    letter = await letters.get(ident)
    if letter is None:
        raise not_found()
    done = await letters.retry(letter)
    if done in _NOT_AGAIN:
        raise Problem(409, done, _NOT_AGAIN[done])
    return answer({"id": ident, "result": done}, 202)


_NOT_AGAIN: dict[Retried, str] = {
    "gone": "This dead letter was taken off in the meantime.",
    "not_kept": "Its original was not kept as a whole: it was too large, or carried a credential. Send it anew.",
    "ended": "The work behind it has ended; the record of its job shows how.",
    "no_record": "The record of its job has expired or was deleted; send the job anew if it is still wanted.",
    "not_failed": "Its job is not failed any more; the dead letter was taken off.",
}
