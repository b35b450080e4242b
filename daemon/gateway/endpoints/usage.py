"""What was made and paid for."""

from __future__ import annotations

from fastapi import APIRouter, Response

from daemon.gateway.access import Reader
from daemon.gateway.answers import answer
from daemon.gateway.gateway import Here
from daemon.gateway.parameters import ident_of, whole_number
from daemon.queue.usage import MOST_DAYS, usage

router = APIRouter(tags=["usage"])


@router.get("/v1/usage")
async def show(here: Here, caller: Reader, days: str | None = None, tenant: str | None = None) -> Response:
    """Pictures, calls and cost by day (UTC), route and tenant; all tenants for a caller that is bound to none."""
    most = whole_number("days", days, 7, 1, MOST_DAYS)
    every = tenant is None and (caller.tenant is None or caller.may("admin"))
    owner = None if every else ident_of(caller.tenant_for(tenant))
    rows = await usage(here.redis, here.names, most, tenant=owner)
    return answer({"days": most, "usage": rows})
