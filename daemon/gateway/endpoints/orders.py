"""Orders about a job or an item of a batch, and the reason why it waits."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from daemon.accounts.why import Hints, Reasons
from daemon.gateway.answering.problems import Problem, not_found
from daemon.gateway.callers.access import Caller, Reader, Submitter
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.work.answers import answer, charged
from daemon.gateway.work.finding import find_batch, find_item, find_job, items_of
from daemon.gateway.work.joining import first_send_us
from daemon.gateway.work.links import Links
from daemon.queue.orders import CANCEL_STATES, target_of
from pixmill.records.views import ItemView, View

router = APIRouter(tags=["jobs"])

# A person orders one job by its name, so the order is for all that did not succeed. A held one may be paid for twice.
RETRIED = ("failed", "held", "cancelled", "expired")


@router.post("/v1/jobs/{ident}/cancel", status_code=202)
async def cancel_job(here: Here, caller: Submitter, ident: str, tenant: str | None = None) -> Response:
    """Cancel a job: what waits ends at once, what runs gets a request to stop. `charged` is what the provider takes."""
    return await _cancel(here, await find_job(here, caller.tenant_for(tenant), ident))


@router.post("/v1/jobs/{ident}/retry", status_code=202)
async def retry_job(
    request: Request, here: Here, caller: Submitter, ident: str, tenant: str | None = None
) -> Response:
    """Queue a job again that ended without a picture, or is held; pictures that were made stay."""
    return await _retry(request, here, caller, await find_job(here, caller.tenant_for(tenant), ident))


@router.get("/v1/jobs/{ident}/explain")
async def explain_job(
    request: Request, here: Here, caller: Reader, ident: str, tenant: str | None = None
) -> Response:
    """Why a job waits, and until when."""
    return await _explain(request, here, caller, await find_job(here, caller.tenant_for(tenant), ident))


@router.post("/v1/batches/{batch}/items/{ident}/cancel", status_code=202)
async def cancel_item(
    here: Here, caller: Submitter, batch: str, ident: str, tenant: str | None = None
) -> Response:
    """Cancel one item of a batch."""
    return await _cancel(here, await find_item(here, caller.tenant_for(tenant), batch, ident))


@router.post("/v1/batches/{batch}/items/{ident}/retry", status_code=202)
async def retry_item(
    request: Request, here: Here, caller: Submitter, batch: str, ident: str, tenant: str | None = None
) -> Response:
    """Queue one item of a batch again that ended without a picture, or is held."""
    item = await find_item(here, caller.tenant_for(tenant), batch, ident)
    return await _retry(request, here, caller, item)


@router.get("/v1/batches/{batch}/items/{ident}/explain")
async def explain_item(
    request: Request, here: Here, caller: Reader, batch: str, ident: str, tenant: str | None = None
) -> Response:
    """Why an item of a batch waits, and until when."""
    return await _explain(
        request, here, caller, await find_item(here, caller.tenant_for(tenant), batch, ident)
    )


@router.get("/v1/batches/{ident}/explain")
async def explain_batch(
    request: Request, here: Here, caller: Reader, ident: str, tenant: str | None = None
) -> Response:
    """Why a batch waits, and until when."""
    return await _explain(request, here, caller, await find_batch(here, caller.tenant_for(tenant), ident))


async def _cancel(here: Gateway, view: View) -> Response:
    changed = await here.orders.cancel(*target_of(view), CANCEL_STATES)
    now = await _now(here, view)
    if not changed.ended_or_queued and not changed.requested:
        raise Problem(409, "already_ended", f"It has ended: {now.state}.", more={"state": now.state})
    return await _ordered(here, now)


async def _retry(request: Request, here: Gateway, caller: Caller, view: View) -> Response:
    begins = view.ended or view.needs_person
    first_us = await first_send_us(request, here, caller, view.tenant, begins=begins)
    if not begins and first_us is None:
        raise _not_ended(view)
    changed = await here.orders.retry(*target_of(view), RETRIED, since_us=first_us)
    now = await _now(here, view)
    if not changed.ended_or_queued and not _has_gone_on(now, first_us):
        if not now.ended:
            raise _not_ended(now)
        raise Problem(409, "already_succeeded", "It has its picture, and nothing is bought twice.")
    return await _ordered(here, now)


async def _explain(request: Request, here: Gateway, caller: Caller, view: View) -> Response:
    links = Links.of_tenant(request, caller, view.tenant)
    reasons = Reasons(here.redis, here.records, here.limiter, here.settings)
    why = await reasons.why(view, Hints(*(f"POST {links.of(view, order)}" for order in ("retry", "cancel"))))
    return answer(why.as_dict(view, view.id))


async def _now(here: Gateway, view: View) -> View:
    now = await (here.records.item(view.uid) if isinstance(view, ItemView) else here.records.group(view.gid))
    if now is None:
        raise not_found()
    return now


async def _ordered(here: Gateway, view: View) -> Response:
    return answer({"state": view.state, "charged": charged(await items_of(here, view))}, 202)


def _has_gone_on(view: View, first_us: int | None) -> bool:
    """Whether some work goes on, or has ended, since an order that this one repeats."""
    if first_us is None:
        return False
    return view.finished_at is None or view.finished_at.timestamp() * 1e6 > first_us


def _not_ended(view: View) -> Problem:
    return Problem(
        409, "not_ended", f"It has not ended: {view.state}. Cancel it first.", more={"state": view.state}
    )
