"""Pictures and cost by day."""

from __future__ import annotations

from fastapi import APIRouter, Response

from daemon.gateway.callers.access import Reader
from daemon.gateway.gateway import Here
from daemon.gateway.requests.parameters import ident_of, whole_number
from daemon.gateway.work.answers import answer
from daemon.queue.usage import MOST_DAYS, usage

router = APIRouter(tags=["usage"])


@router.get("/v1/usage")
async def show(here: Here, caller: Reader, days: str | None = None, tenant: str | None = None) -> Response:
    """Pictures, calls and cost by day (UTC), route and tenant; all tenants for a caller that is bound to none."""
    most = whole_number("days", days, 7, 1, MOST_DAYS)
    every = tenant is None and (caller.tenant is None or caller.may("admin"))
    owner = None if every else ident_of(caller.tenant_for(tenant))
    rows = await usage(here.redis, here.keys, most, tenant=owner)
    return answer({"days": most, "usage": rows})
