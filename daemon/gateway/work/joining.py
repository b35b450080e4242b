"""Recognises a request that is sent again, so that a repetition joins the work that its first send began.

The caller's own id, or an `Idempotency-Key`, is better: it needs none of this. But clients that repeat a request by
themselves send neither.
"""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import Request

from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.access import Caller
from daemon.gateway.gateway import Gateway
from daemon.gateway.requests.identity import HEADER, id_of_key, idempotency_key
from daemon.queue.steps import Steps
from pixmill.ids import new_id

SAME_BODY_S = 60.0
ORDER_KEPT_MS = 60_000


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


async def first_send_us(
    request: Request, here: Gateway, caller: Caller, tenant: str, order: str = "", *, begins: bool = True
) -> int | None:
    """When the order that this one repeats was sent, in microseconds; None: it has no `Idempotency-Key`, or a new one.

    A key is noted for a minute, unless the order cannot begin now. Raises Problem 409 for a key of another `order`.
    """
    if (key := idempotency_key(request)) is None:
        return None
    noted = f"{here.keys.prefix}:order:{digest_of(caller, tenant, request.url.path, id_of_key(key).encode())}"
    content = hashlib.sha256(order.encode()).hexdigest()
    if begins:
        seconds, micros = await here.redis.time()
        first = f"{int(seconds) * 10**6 + int(micros)} {content}"
        if await here.redis.set(noted, first, nx=True, px=ORDER_KEPT_MS):
            return None
    found: Any = await here.redis.get(noted)
    first_us, _, first_content = (found or b"").decode().partition(" ")
    if first_us and first_content != content:
        raise Problem(409, "id_conflict", _OTHER_ORDER, field=HEADER)
    return int(first_us) if first_us else None


_OTHER_ORDER = f"This `{HEADER}` was sent with another order in the last minute; give each order its own."
