"""The endpoints of the slide maker, in the form that its callers know.

Its `generate` blocked until every slide was done and was cut off at 300 s. Here it answers before that, with what there
is and the state `running`; the same body again finds the same batch.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response

from daemon.compat.slides import slide_batch
from daemon.gateway.answering.problems import invalid
from daemon.gateway.batches.accepting import accept, prepared
from daemon.gateway.callers.access import Reader, Submitter
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.requests.bodies import object_in, read_body, read_object
from daemon.gateway.requests.parameters import SMALL_BYTES, preferred_wait_s, prefers_async
from daemon.gateway.work.accepting import named
from daemon.gateway.work.answers import answer, look_again_s
from daemon.gateway.work.finding import find_batch, items_of
from daemon.gateway.work.joining import batch_id_of
from daemon.gateway.work.links import Links
from pixmill.broker.streams import ranked
from pixmill.records.records import GroupView, ItemView

router = APIRouter(tags=["slides"])

WAIT_S: Final = 280  # the callers give up at 300
MOST_COUNTED: Final = 100_000
BODY_BYTES: Final = 2 * 1024**2
_STATES: Final = {"succeeded": "success", "queued": "pending", "running": "processing"}


@router.post("/api/slide/batch/generate")
async def generate(request: Request, here: Here, caller: Submitter) -> Response:
    """Make a picture of every slide, and answer when they are done, or after 280 s with what is done by then."""
    wait_s = 0 if prefers_async(request) else preferred_wait_s(request, WAIT_S)
    data = await read_body(request, BODY_BYTES, ("application/json",))
    payload, route = await object_in(data), here.settings.gateway.slide_route
    fields, items = await asyncio.to_thread(slide_batch, payload, route=route)
    tenant = caller.tenant_for(None)
    ident = await batch_id_of(request, here, caller, tenant, data, "slides")
    fields |= {"id": ident, "tenant": tenant}
    links = Links.of_tenant(request, caller, tenant)
    parts = await asyncio.to_thread(prepared, fields, items, here.acceptor)
    with named(ident, links.batch(ident)):
        view = await accept(here, parts)
        await here.waiting.for_end(view, WAIT_S if wait_s is None else wait_s, request)
        view = await find_batch(here, tenant, ident)
        body = {**await _body(here, links, view), "total_time": _lasted_s(view)}
    applied = (
        {} if wait_s is None else {"Preference-Applied": f"wait={wait_s}" if wait_s else "respond-async"}
    )
    if view.ended:
        return answer(body, headers=applied)
    eta_s = await _eta_s(here, view)
    headers = {"Location": links.batch(ident), "Retry-After": str(look_again_s(eta_s, 5)), **applied}
    return answer({**body, "estimated_remaining_time": eta_s}, 202, headers)


@router.post("/api/slide/batch/status")
async def status(request: Request, here: Here, caller: Reader) -> Response:
    """How far a batch of slides is, with the pictures that are done."""
    ident = (await read_object(request, SMALL_BYTES)).get("batch_id")
    if not isinstance(ident, str):
        raise invalid("batch_id", "`batch_id` must be a text.")
    tenant = caller.tenant_for(None)
    view = await find_batch(here, tenant, ident)
    body = await _body(here, Links.of_tenant(request, caller, tenant), view)
    return answer({**body, "progress": view.progress, "estimated_remaining_time": await _eta_s(here, view)})


@router.get("/api/slide/batch/active-count")
async def active_count(here: Here, caller: Reader) -> Response:
    """How many batches of the caller are under way."""
    tenant = caller.tenant_for(None)
    names = await ranked(here.redis, here.keys.active, 0, MOST_COUNTED)
    # A job of several pictures has an empty batch in its name.
    ours = [name for name in names if name.startswith(f"{tenant}/") and not name.startswith(f"{tenant}//")]
    return answer({"active_batches": len(ours)})


async def _body(here: Gateway, links: Links, view: GroupView) -> dict[str, Any]:
    """The fields that both answers have."""
    items = await items_of(here, view)
    counts = view.counts
    return {
        "batch_id": view.id,
        "session_id": view.metadata.get("session_id", view.id),
        "status": view.state,
        "total_slides": counts.total,
        "completed_slides": counts.ended,
        "successful": counts.succeeded,
        "failed": counts.ended - counts.succeeded,
        "results": [_result(links, item) for item in items],
    }


def _result(links: Links, item: ItemView) -> dict[str, Any]:
    page = item.metadata.get("page_num", "")
    return {
        "slide_id": item.metadata.get("slide_id", item.id),
        "page_num": orjson.loads(page) if page else None,
        "title": item.metadata.get("title"),
        "image_url": links.image(item, 0) if item.state == "succeeded" else None,
        "final_prompt": item.spec.get("prompt"),
        "status": _STATES.get(item.state, "failed" if item.ended else "pending"),
        "error_message": None if item.error is None else item.error.get("message"),
        "generation_time": _generation_s(item),
    }


def _generation_s(item: ItemView) -> float | None:
    """How long a slide took, a failed one too; None while it has not ended, and for one that never began."""
    if item.started_at is None or item.finished_at is None:
        return None
    return round((item.finished_at - item.started_at).total_seconds(), 3)


def _lasted_s(view: GroupView) -> float:
    """From the acceptance to the end, or until now."""
    return round(((view.finished_at or datetime.now(UTC)) - view.accepted_at).total_seconds(), 3)


async def _eta_s(here: Gateway, view: GroupView) -> float | None:
    return 0.0 if view.ended else (await here.estimates.of(view, [])).eta_s
