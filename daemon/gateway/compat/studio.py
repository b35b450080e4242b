"""The endpoint of the e-commerce image studio: its own payload becomes a batch with one item a picture."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import orjson
from fastapi import APIRouter, Request, Response

from daemon.compat.studio import STUDIO_TYPE, studio_types
from daemon.gateway.batches.accepting import accept
from daemon.gateway.callers.access import Submitter
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.requests.bodies import JSON_BYTES, read_object
from daemon.gateway.requests.identity import id_of_key, idempotency_key, two_names
from daemon.gateway.requests.origin import origin
from daemon.gateway.work.accepting import named
from daemon.gateway.work.answers import answer
from daemon.gateway.work.links import Links
from daemon.intake.acceptance import PreparedPart
from pixmill.contract import Batch, parse_payload

router = APIRouter(tags=["image studio"])

OWNER: Final = "user_id"


@router.post("/api/image-studio/jobs", status_code=202)
async def submit(request: Request, here: Here, caller: Submitter) -> Response:
    """Accept a studio payload. Keys in it are dropped, with a warning: credentials come from the configuration."""
    payload = await read_object(request, JSON_BYTES)
    if (key := idempotency_key(request)) is not None:
        if "job_id" in payload:
            raise two_names("job_id")
        payload["job_id"] = id_of_key(key)
    # A thousand pictures take a while, and other requests must not wait for them.
    part = await asyncio.to_thread(_prepared, here, payload, caller.tenant)
    links = Links.of_tenant(request, caller, part.batch.tenant)
    with named(part.batch.id, links.batch(part.batch.id)):
        view = await accept(here, [part])
    body = {
        "job_id": view.id,
        "total_pictures": view.counts.total,
        "warnings": list(view.warnings),
        "status": view.state,
        "urls": {"self": links.batch(view.id), "events": links.batch(view.id, "events")},
    }
    return answer(body, 202, {"Location": links.batch(view.id)})


def _prepared(here: Gateway, payload: dict[str, Any], tenant: str | None) -> PreparedPart:
    return here.acceptor.prepared(_of_caller(payload, tenant, here.settings.gateway.studio_route), origin())


def _of_caller(payload: dict[str, Any], tenant: str | None, route: str) -> Batch:
    """The batch of a payload. With a key, its tenant is the key's, and the user of the payload goes to the metadata."""
    user = payload.get(OWNER)
    if tenant is not None:
        payload = {**payload, OWNER: tenant}
    data = orjson.dumps(payload)
    batch = cast("Batch", parse_payload(data, STUDIO_TYPE, studio_types(route), most_bytes=JSON_BYTES))
    if tenant is None or not isinstance(user, str):
        return batch
    metadata = {**(batch.metadata or {}), OWNER: user[:256]}
    return batch.model_copy(update={"metadata": metadata}).with_warnings(list(batch.warnings))
