"""Quotas, routes, and pauses of the fleet, of a route and of a quota."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from daemon.accounts.quota_view import Quotas
from daemon.gateway.answering.problems import not_found
from daemon.gateway.callers.access import ADMINISTERS, READS, Admin, Caller
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.requests.parameters import pause_terms
from daemon.gateway.work.answers import answer
from daemon.queue import pauses
from pixmill.records.views import rfc3339

router = APIRouter(tags=["quotas"])


@router.get("/v1/quotas", dependencies=[READS])
async def quotas(here: Here) -> Response:
    """Each quota: its limits, what is left, what holds the next call back, and until when."""
    found = await pauses.read_pauses(here.redis, here.keys)
    looks = [look.as_dict() for look in await _quotas(here).look(here.settings.quotas)]
    return answer({"quotas": looks, "pauses": [pause.as_dict() for pause in found.values()]})


@router.get("/v1/routes", dependencies=[READS])
async def routes(here: Here) -> Response:
    """The routes that jobs may name: provider, model, quotas, and the pause over each."""
    found = await pauses.read_pauses(here.redis, here.keys)
    return answer({"routes": [_route(here, name, pauses.pause_over(found, name)) for name in here.routes]})


@router.post("/v1/quotas/{name}/pause", status_code=202)
async def pause_quota(request: Request, here: Here, caller: Admin, name: str) -> Response:
    """Stop all calls under a quota, on every replica."""
    _known(name, here.settings.quotas)
    reason, for_s = await pause_terms(request)
    until = await _quotas(here).pause(name, pauses.signed(reason, caller.signature), for_s)
    return answer({"quota": name, "paused": True, "paused_by": caller.signature, "until": _text(until)}, 202)


@router.post("/v1/quotas/{name}/resume", status_code=202, dependencies=[ADMINISTERS])
async def resume_quota(here: Here, name: str) -> Response:
    """End a pause of a quota. A cooldown that the provider set stays."""
    _known(name, here.settings.quotas)
    return answer({"quota": name, "resumed": await _quotas(here).resume(name)}, 202)


@router.post("/v1/pause", status_code=202)
async def pause_fleet(request: Request, here: Here, caller: Admin) -> Response:
    """Begin no new call at all; running items go on."""
    return await _pause(request, here, caller, "fleet", "")


@router.post("/v1/resume", status_code=202, dependencies=[ADMINISTERS])
async def resume_fleet(here: Here) -> Response:
    """End a pause of the fleet."""
    return await _resume(here, "fleet", "")


@router.post("/v1/routes/{name}/pause", status_code=202)
async def pause_route(request: Request, here: Here, caller: Admin, name: str) -> Response:
    """Begin no new call of a route; running items go on."""
    _known(name, here.routes)
    return await _pause(request, here, caller, "route", name)


@router.post("/v1/routes/{name}/resume", status_code=202, dependencies=[ADMINISTERS])
async def resume_route(here: Here, name: str) -> Response:
    """End a pause of a route."""
    _known(name, here.routes)
    return await _resume(here, "route", name)


async def _pause(
    request: Request, here: Gateway, caller: Caller, scope: Literal["fleet", "route"], name: str
) -> Response:
    reason, for_s = await pause_terms(request)
    by = caller.signature
    seconds, _ = await here.redis.time()
    await pauses.pause(here.redis, here.keys, scope, name, reason=pauses.signed(reason, by), for_s=for_s)
    until = None if for_s is None else datetime.fromtimestamp(seconds + for_s, UTC)
    return answer({"scope": scope, "name": name, "paused": True, "paused_by": by, "until": _text(until)}, 202)


async def _resume(here: Gateway, scope: Literal["fleet", "route"], name: str) -> Response:
    resumed = await pauses.resume(here.redis, here.keys, scope, name) == "resumed"
    return answer({"scope": scope, "name": name, "resumed": resumed}, 202)


def _route(here: Gateway, name: str, pause: pauses.Pause | None) -> dict[str, Any]:
    route = here.routes[name]
    return {
        "route": name,
        "provider": route.provider.name,
        "model": route.model,
        "quotas": [quota.name for quota in route.quotas],
        "any": list(route.equals),
        "fallback": list(route.spares),
        "paused": None if pause is None else pause.as_dict(),
    }


def _text(until: datetime | None) -> str | None:
    return None if until is None else rfc3339(until)


def _quotas(here: Gateway) -> Quotas:
    return Quotas(here.redis, here.keys, here.limiter)


def _known(name: str, configured: Any) -> None:
    if name not in configured:
        raise not_found()
