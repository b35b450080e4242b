"""Batches: accept one, list them, read one, and its log."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, get_args

from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from daemon.accounts.least_time import LeastTime
from daemon.gateway.answering.problems import Problem, problem_of
from daemon.gateway.batches.accepting import (
    Plan,
    accept_parts,
    dry_plan_of,
    fault_of_head,
    least_time_of,
    plan_of,
    record_of,
    refusal_of,
)
from daemon.gateway.batches.drafts import draft_of
from daemon.gateway.batches.pages import batches_of
from daemon.gateway.callers.access import Caller, Reader, Submitter
from daemon.gateway.estimate import UNKNOWN, Outlook
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.requests.parameters import flag, ident_of, one_of, whole_number
from daemon.gateway.work.accepting import named
from daemon.gateway.work.answers import EVENT_ID, answer, shown
from daemon.gateway.work.finding import find_batch
from daemon.gateway.work.links import Links
from daemon.queue.pauses import unsigned
from daemon.queue.summaries import log_of, pace
from pixmill.broker.streams import tail
from pixmill.contract import Rejection
from pixmill.contract.event_types import BatchState
from pixmill.records.counts import GroupCounts
from pixmill.records.records import GroupView

router = APIRouter(tags=["batches"])

LISTED, MOST_LISTED = 50, 1000


@router.post("/v1/batches", status_code=202)
async def submit(request: Request, here: Here, caller: Submitter, dry_run: str | None = None) -> Response:
    """Accept a batch: JSON of at most 1,000 items; up to 10,000 as lines, the first of which is the head; or a CSV.

    All of it is checked before anything is recorded. With `dry_run=true` nothing is recorded at all.
    """
    if flag("dry_run", dry_run):
        return answer(await _tried(request, here, caller))
    async with draft_of(request, here, caller) as draft:
        plan = await plan_of(draft, here.acceptor)
        if plan.faults:
            raise refusal_of(plan.faults)
        batch = plan.parts[0].batch
        links = Links.of_tenant(request, caller, batch.tenant)
        with named(batch.id, links.batch(batch.id)):
            await accept_parts(here, plan.parts)
    return answer(await _accepted(here, links, plan), 202, {"Location": links.batch(batch.id)})


@router.get("/v1/batches")
async def every(
    request: Request,
    here: Here,
    caller: Reader,
    state: str | None = None,
    cursor: str | None = None,
    limit: str | None = None,
    tenant: str | None = None,
) -> Response:
    """The batches on record, newest first, by pages: `next` is the cursor of the next one.

    The header `Pixmill-Event-Id` names an event such that this page shows at least what came before it.
    """
    owner = ident_of(caller.tenant_for(tenant))
    newest = await tail(here.redis, here.keys.events)
    found, following = await batches_of(
        here,
        owner,
        state=one_of("state", state, get_args(BatchState)),
        cursor=cursor,
        limit=whole_number("limit", limit, LISTED, 1, MOST_LISTED),
    )
    links = Links.of_tenant(request, caller, owner)
    shorts = [{**_shown(view, links), "summary": pace(view)} for view in found]
    return answer({"batches": shorts, "next": following}, headers={EVENT_ID: newest})


@router.get("/v1/batches/{ident}")
async def one(
    request: Request, here: Here, caller: Reader, ident: str, tenant: str | None = None
) -> Response:
    """A batch: its counts, how far it is, when it will be done, what holds it back, and its summary."""
    view = await find_batch(here, caller.tenant_for(tenant), ident)
    record = _shown(view, Links.of_tenant(request, caller, view.tenant), await here.estimates.of(view))
    return answer({**record, "summary": await here.summaries.of(view)})


@router.get("/v1/batches/{ident}/log")
async def log(here: Here, caller: Reader, ident: str, tenant: str | None = None) -> Response:
    """The log of a batch: the time and the end of each item, and the whole."""
    return answer(await log_of(here.records, await find_batch(here, caller.tenant_for(tenant), ident)))


async def _accepted(here: Gateway, links: Links, plan: Plan) -> dict[str, Any]:
    """The answer for a new batch, also where its record cannot be read now: the batch is recorded."""
    first, waiting = plan.parts[0], plan.pictures().total()
    ident, head = first.batch.id, first.group["head"]
    counts, outlook = GroupCounts(first.gid, head, waiting, waiting, 0, 0, 0, 0, 0, 0, 0, 0), UNKNOWN
    with suppress(RedisError, OSError):
        view = await record_of(here, plan.parts)
        counts, outlook = view.counts, await here.estimates.of(view)
    return {
        "id": ident,
        "total": counts.total,
        "counts": counts.by_state(),
        "eta_seconds": outlook.as_dict()["eta_seconds"],
        "bound": outlook.bound,
        "urls": links.batch_urls(ident),
    }


async def _tried(request: Request, here: Gateway, caller: Caller) -> dict[str, Any]:
    """A dry run. A wrong head is refused in it, like any other part of the batch."""
    try:
        async with draft_of(request, here, caller) as draft:
            return await _planned(here, await dry_plan_of(draft, here.acceptor), draft.notes)
    except (Problem, Rejection) as error:
        problem = problem_of(error)
        if problem.status != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise
        return await _planned(here, Plan((), [fault_of_head(problem)]), ())


async def _planned(here: Gateway, plan: Plan, notes: Sequence[str]) -> dict[str, Any]:
    """A dry run: the pictures, how long they take by what is known of their routes now, and what is refused."""
    pictures = plan.pictures()
    outlooks = [await here.estimates.of_calls(route, count) for route, count in pictures.items()]
    seconds, bound = _time_of(least_time_of(here, pictures), outlooks)
    return {
        "pictures": pictures.total(),
        "seconds": None if seconds is None else round(seconds, 1),
        "bound": bound,
        "cost": None,  # no provider names its price before the call
        "refused": [fault.as_dict() for fault in plan.faults],
        "notes": list(notes),
    }


def _time_of(least: LeastTime, outlooks: Sequence[Outlook]) -> tuple[float | None, str | None]:
    """The seconds that a batch needs, and what takes most of them; None while a route is held back without an end."""
    endless = next((each for each in outlooks if each.bound is not None and each.eta_s is None), None)
    if endless is not None:
        return None, endless.bound
    known = [s for s in (least.seconds, *(each.eta_s for each in outlooks)) if s is not None]
    needed = None if least.bound is None else str(least.bound)
    begins = [(each.next_slot_at, each.bound) for each in outlooks if each.next_slot_at is not None]
    last_at, held = max(begins, default=(None, None), key=lambda one: one[0])
    if last_at is not None and (last_at - datetime.now(UTC)).total_seconds() > (least.seconds or 0.0):
        return max(known, default=None), held
    return max(known, default=None), needed


def _shown(view: GroupView, links: Links, outlook: Outlook = UNKNOWN) -> dict[str, Any]:
    reason, by = (None, None) if view.paused is None else unsigned(view.paused)
    return {**shown(view, links, outlook), "paused": reason, "paused_by": by}
