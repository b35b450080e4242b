"""Pictures and cost by day, and the installation at a glance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Response

from daemon.gateway.callers.access import Caller, Reader
from daemon.gateway.fleet import read_fleet
from daemon.gateway.gateway import Here
from daemon.gateway.requests.parameters import ident_of, whole_number
from daemon.gateway.work.answers import answer
from daemon.queue.usage import MOST_DAYS, usage

router = APIRouter(tags=["usage"])


@router.get("/v1/usage")
async def show(here: Here, caller: Reader, days: str | None = None, tenant: str | None = None) -> Response:
    """Pictures, calls and cost by day (UTC), route and tenant; all tenants for a caller that is bound to none."""
    most = whole_number("days", days, 7, 1, MOST_DAYS)
    rows = await usage(here.redis, here.keys, most, tenant=_owner(caller, tenant))
    return answer({"days": most, "usage": rows})


@router.get("/v1/status")
async def status(here: Here, caller: Reader, tenant: str | None = None) -> Response:
    """The replicas that work, the longest wait of the whole fleet, and what was made and paid for today."""
    fleet = await read_fleet(here.redis, here.keys, here.routes)
    today = await usage(here.redis, here.keys, 1, tenant=_owner(caller, tenant))
    return answer(
        {
            "replicas": fleet.replicas,
            "oldest_wait_seconds": round(fleet.oldest_wait_s, 3),
            "today": {"pictures": sum(row["pictures"] for row in today), "cost": _cost(today)},
        }
    )


def _owner(caller: Caller, tenant: str | None) -> str | None:
    """The tenant whose use a caller sees, None for all tenants. Raises Problem for a foreign one."""
    every = tenant is None and (caller.tenant is None or caller.may("admin"))
    return None if every else ident_of(caller.tenant_for(tenant))


def _cost(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    total: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        for currency, amount in row["cost"].items():
            total[currency] += Decimal(amount)
    return {currency: f"{amount:f}" for currency, amount in total.items()}
