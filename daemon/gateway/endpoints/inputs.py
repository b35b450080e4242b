"""Pictures to work from: uploaded once, named by jobs as `inputs[].object`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from daemon.gateway.callers.access import Submitter
from daemon.gateway.gateway import Here
from daemon.gateway.requests.parameters import ident_of
from daemon.gateway.work.answers import answer
from daemon.gateway.work.pictures import keep_input

router = APIRouter(tags=["inputs"])

TYPES = ("image/png", "image/jpeg", "image/webp")


@router.post("/v1/inputs", status_code=201)
async def upload(request: Request, here: Here, caller: Submitter, tenant: str | None = None) -> Response:
    """Keep a picture. Its name is its content's, so the same picture again is the same object."""
    owner = ident_of(caller.tenant_for(tenant))
    most = here.settings.network.max_input_bytes
    async with here.uploads.spooled(request, caller.tenant, most, TYPES) as file:
        return answer(await keep_input(here, owner, file), 201)
