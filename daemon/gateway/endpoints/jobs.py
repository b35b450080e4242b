"""Jobs: accept one, and read its record."""

from __future__ import annotations

import secrets
from typing import Any, cast

import orjson
from fastapi import APIRouter, Request, Response

from daemon.contract import JOB_TYPE, Job, parse_payload
from daemon.gateway.access import Reader, Submitter
from daemon.gateway.answers import answer, shown
from daemon.gateway.bodies import read_object
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.links import Links
from daemon.gateway.problems import Problem, not_found
from daemon.intake.acceptance import CONFLICT

router = APIRouter()


@router.post("/v1/jobs", status_code=202)
async def submit(request: Request, here: Here, caller: Submitter) -> Response:
    """Accept a job. 202 means that it is recorded; the same id and content again is the same job."""
    body = await read_object(request)
    body.setdefault("id", f"job-{secrets.token_hex(6)}")
    body["tenant"] = caller.tenant_for(body.get("tenant"))
    job = cast("Job", parse_payload(orjson.dumps(body), JOB_TYPE))
    if await here.acceptor.job(job, {}) == "conflict":
        raise Problem(409, "id_conflict", CONFLICT, field="id")
    return answer(await _accepted(here, Links(request), job), 202, {"Location": Links(request).job(job.id)})


@router.get("/v1/jobs/{ident}")
async def show(
    request: Request, here: Here, caller: Reader, ident: str, tenant: str | None = None
) -> Response:
    """The record of a job."""
    view = await here.records.find(caller.tenant_for(tenant), ident)
    if view is None:
        raise not_found()
    return answer(shown(view, Links(request)))


async def _accepted(here: Gateway, links: Links, job: Job) -> dict[str, Any]:
    view = await here.records.find(job.tenant, job.id)
    if view is None:
        raise not_found()
    return shown(view, links)
