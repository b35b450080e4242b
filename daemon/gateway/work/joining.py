"""Recognises a request that is sent again, so that a repetition joins the work that its first send began.

The caller's own id, or an `Idempotency-Key`, is better: it needs none of this. But clients that repeat a request by
themselves send neither.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from fastapi import Request

from daemon.client.client import new_id
from daemon.gateway.callers.access import Caller
from daemon.gateway.gateway import Gateway
from daemon.gateway.requests.identity import id_of_key, idempotency_key
from daemon.queue.steps import Steps
from daemon.queue.views import ItemView

SAME_BODY_S = 60.0
NO_RECORDS = "/"  # where an order has no record of its own: no tenant has an empty name


def digest_of(caller: Caller, tenant: str, address: str, body: bytes) -> str:
    """A text that is equal for two sends if one caller sent the same bytes to the same address."""
    return hashlib.sha256(b"\n".join((f"{caller.name}/{tenant} {address}".encode(), body))).hexdigest()


async def batch_id_of(
    request: Request, here: Gateway, caller: Caller, tenant: str, body: bytes, kind: str
) -> str:
    """The id of the batch that a body describes: the same for the same body while it runs, and a minute longer.

    With an `Idempotency-Key` it is the key's. `kind` begins a new id.
    """
    if (key := idempotency_key(request)) is not None:
        return id_of_key(key)
    send = digest_of(caller, tenant, request.url.path, body)
    return await joined_id(here, send, new_id(kind), f"{tenant}/", kept_s=SAME_BODY_S)


async def joined_id(
    here: Gateway, send: str, new_id: str, records: str, *, kept_s: float, count: int | None = None
) -> str:
    """The id of the work that an earlier send began, or `new_id`; `records` is what names of its records begin with.

    Work is joined while it runs and for `kept_s` after its end. `count` is the number of the repetition: 0 begins new
    work, and each work is joined once by each number. None: every send joins.
    """
    step = Steps(here.redis, here.keys.prefix)
    given = {"send": send, "id": new_id, "records": records, "kept_us": round(kept_s * 1e6), "count": count}
    reply: bytes = await step("join", **given)
    return reply.decode()


async def first_send_at(request: Request, here: Gateway, caller: Caller, tenant: str) -> datetime | None:
    """When the order that this one repeats was sent; None: it has no `Idempotency-Key`, or a new one in this minute.

    The time stands in the place of an id, so that nothing else is noted: what has run since then is not ordered again.
    """
    if (key := idempotency_key(request)) is None:
        return None
    seconds, micros = await here.redis.time()
    now_us = str(int(seconds) * 10**6 + int(micros))
    send = digest_of(caller, tenant, request.url.path, id_of_key(key).encode())
    first_us = await joined_id(here, send, now_us, NO_RECORDS, kept_s=0)
    return None if first_us == now_us else datetime.fromtimestamp(int(first_us) / 1e6, UTC)


def has_run_since(item: ItemView, moment: datetime) -> bool:
    """Whether a run of the item began, or the item ended, after `moment`."""
    return any(at is not None and at > moment for at in (item.started_at, item.finished_at))
