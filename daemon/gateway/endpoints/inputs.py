"""Pictures to work from: uploaded once, named by jobs as `inputs[].object`."""

from __future__ import annotations

import asyncio
from typing import IO

from fastapi import APIRouter, Request, Response

from daemon.gateway.access import Submitter
from daemon.gateway.answers import answer
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.parameters import ident_of
from daemon.gateway.problems import Problem
from daemon.storage.imaging import BadImage, inspect_image

router = APIRouter(tags=["inputs"])

TYPES = ("image/png", "image/jpeg", "image/webp")


@router.post("/v1/inputs", status_code=201)
async def upload(request: Request, here: Here, caller: Submitter, tenant: str | None = None) -> Response:
    """Keep a picture. Its name is its content's, so the same picture again is the same object."""
    owner = ident_of(caller.tenant_for(tenant))
    most = here.settings.network.max_input_bytes
    async with here.uploads.spooled(request, most, TYPES) as file:
        return answer(await keep_input(here, owner, file), 201)


async def keep_input(here: Gateway, tenant: str, file: IO[bytes]) -> dict[str, object]:
    """Check a picture and put it into the store. Raises Problem 422 for anything else; StorageError."""
    async with here.decoding:
        data = file.read()
        try:
            facts = await asyncio.to_thread(inspect_image, data)
        except BadImage as error:
            raise Problem(422, "invalid", f"This is no picture that can be used: {error}") from None
        key = input_key(tenant, facts.sha256)
        await here.store.put_image(key, data)
    return {"object": key, "sha256": facts.sha256, "width": facts.width, "height": facts.height}


def input_key(tenant: str, sha256: str) -> str:
    """The key of an uploaded picture."""
    return f"{tenant}/inputs/{sha256}"
