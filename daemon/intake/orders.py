"""Carries out the cancels and retries that people send through the jobs stream."""

from __future__ import annotations

from daemon.queue.messages import Target
from daemon.queue.orders import CANCEL_STATES, DEFAULT_RETRY, Orders
from pixmill.contract import Cancel, Rejection, RetryRequest
from pixmill.records.keys import Uid, batch_gid, job_gid


async def carry_out(order: Cancel | RetryRequest, orders: Orders) -> None:
    """Carry out the order; a repeat changes nothing more. Raises Rejection when no work has that name."""
    for kind, name in _targets(order):
        if isinstance(order, Cancel):
            changed = await orders.cancel(kind, name, order.statuses or CANCEL_STATES)
        else:
            changed = await orders.retry(kind, name, order.statuses or DEFAULT_RETRY)
        if changed.known:
            return
    raise _not_found(order)


def _targets(order: Cancel | RetryRequest) -> list[tuple[Target, str]]:
    """The work that the ids may name, most likely first: a group, an item of a batch, a job of one picture."""
    tenant = order.tenant
    if order.batch is not None and order.job is not None:
        return [("item", str(Uid(tenant, order.batch, order.job)))]
    if order.batch is not None:
        return [("group", batch_gid(tenant, order.batch))]
    return [("group", job_gid(tenant, order.job or "")), ("item", str(Uid(tenant, "", order.job or "")))]


def _not_found(order: Cancel | RetryRequest) -> Rejection:
    name = order.job or order.batch
    return Rejection(
        "not_found",
        f'No work named "{name}" is known in tenant "{order.tenant}"; it may have expired.',
        field="job" if order.job else "batch",
        tenant=order.tenant,
        ident=name,
    )
