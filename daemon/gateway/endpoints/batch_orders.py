"""Orders on batches: cancel, retry, pause and resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from daemon.gateway.answering.problems import Problem, not_found
from daemon.gateway.batches.pages import chosen
from daemon.gateway.callers.access import Submitter
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.requests.bodies import read_object
from daemon.gateway.requests.parameters import SMALL_BYTES
from daemon.gateway.work.answers import answer
from daemon.gateway.work.finding import find_batch
from daemon.gateway.work.joining import first_send_us
from daemon.queue import pauses
from daemon.queue.messages import Changed
from daemon.queue.orders import CANCEL_STATES, DEFAULT_RETRY
from pixmill.contract.batches import CancelSelection, PauseOrder, RetrySelection
from pixmill.contract.explain import refused
from pixmill.contract.fields import Model
from pixmill.records.records import GroupView

router = APIRouter(tags=["batches"])

M = TypeVar("M", bound=Model)


@router.post("/v1/batches/{ident}/cancel", status_code=202)
async def cancel(
    request: Request, here: Here, caller: Submitter, ident: str, tenant: str | None = None
) -> Response:
    """Cancel items that have not ended; `{}` means all of them. Running items get a request to stop."""
    order = await _order(request, CancelSelection)
    batch = await find_batch(here, caller.tenant_for(tenant), ident)
    states = order.states or CANCEL_STATES
    uids = await _named(here, batch, states, order)
    if uids is None:
        return _affected(await here.orders.cancel("group", batch.gid, states))
    return _affected(await here.orders.cancel_members(batch.gid, uids, states))


@router.post("/v1/batches/{ident}/retry", status_code=202)
async def retry(
    request: Request, here: Here, caller: Submitter, ident: str, tenant: str | None = None
) -> Response:
    """Try items again that made no picture; `{}` means those that failed. No picture is made twice."""
    order = await _order(request, RetrySelection)
    batch = await find_batch(here, caller.tenant_for(tenant), ident)
    states = order.states or DEFAULT_RETRY
    first_us = await first_send_us(request, here, caller, batch.tenant, order.model_dump_json())
    uids = await _named(here, batch, states, order)
    if uids is None:
        return _affected(await here.orders.retry("group", batch.gid, states, since_us=first_us))
    return _affected(await here.orders.retry_members(batch.gid, uids, states, since_us=first_us))


@router.post("/v1/batches/{ident}/pause", status_code=202)
async def pause(
    request: Request, here: Here, caller: Submitter, ident: str, tenant: str | None = None
) -> Response:
    """Begin no new call of a batch until it is resumed; running items go on."""
    order = await _order(request, PauseOrder)
    batch = await find_batch(here, caller.tenant_for(tenant), ident)
    reason = pauses.signed(order.reason, caller.signature)
    match await pauses.pause(here.redis, here.keys, "batch", batch.gid, reason=reason):
        case "unknown":
            raise not_found()
        case "ended":
            raise Problem(409, "already_ended", "This batch has ended.")
    return answer({"affected": _waiting(batch)}, 202)


@router.post("/v1/batches/{ident}/resume", status_code=202)
async def resume(
    request: Request, here: Here, caller: Submitter, ident: str, tenant: str | None = None
) -> Response:
    """End the pause of a batch; `affected` is 0 if it was not paused."""
    await _order(request, Model)
    batch = await find_batch(here, caller.tenant_for(tenant), ident)
    reply = await pauses.resume(here.redis, here.keys, "batch", batch.gid)
    if reply == "unknown":
        raise not_found()
    return answer({"affected": _waiting(batch) if reply == "resumed" else 0}, 202)


async def _order(request: Request, model: type[M]) -> M:
    """The order in the body; raises Problem and Rejection."""
    body = await read_object(request, SMALL_BYTES * 4)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise refused(error, model) from None


async def _named(
    here: Gateway,
    batch: GroupView,
    states: Sequence[str],
    order: CancelSelection | RetrySelection,
) -> list[str] | None:
    """The items that an order names; None: all of the batch."""
    if order.kinds is None and order.items is None:
        return None
    return [str(view.uid) for view in await chosen(here, batch, states, order.kinds, order.items)]


def _affected(changed: Changed) -> Response:
    if not changed.known:
        raise not_found()
    return answer({"affected": changed.ended_or_queued + changed.requested}, 202)


def _waiting(batch: GroupView) -> int:
    return batch.counts.queued + batch.counts.throttled + batch.counts.retry_wait
