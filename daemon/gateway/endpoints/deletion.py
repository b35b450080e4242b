"""Deletion of jobs and batches that have ended, for good."""

from __future__ import annotations

from fastapi import APIRouter, Response

from daemon.gateway.answering.problems import not_found
from daemon.gateway.batches.deletion import delete_work
from daemon.gateway.callers.access import Submitter
from daemon.gateway.gateway import Here
from daemon.gateway.requests.parameters import ident_of
from daemon.gateway.work.finding import find_batch, find_job
from pixmill.records.keys import batch_gid, job_gid

router = APIRouter()


@router.delete("/v1/jobs/{ident}", status_code=204, tags=["jobs"])
async def job(here: Here, caller: Submitter, ident: str, tenant: str | None = None) -> Response:
    """Delete the pictures and records of a job that has ended; a deletion that broke off may be repeated."""
    owner = ident_of(caller.tenant_for(tenant))
    name = job_gid(owner, ident_of(ident))
    if not (await delete_work(here, "group", name) or await delete_work(here, "item", name)):
        await find_job(here, owner, ident)
        raise not_found()  # one picture of a job of several
    return Response(status_code=204)


@router.delete("/v1/batches/{ident}", status_code=204, tags=["batches"])
async def batch(here: Here, caller: Submitter, ident: str, tenant: str | None = None) -> Response:
    """Delete the pictures and records of a batch that has ended; a deletion that broke off may be repeated."""
    owner = ident_of(caller.tenant_for(tenant))
    if not await delete_work(here, "group", batch_gid(owner, ident_of(ident))):
        await find_batch(here, owner, ident)
        raise not_found()  # it was sent just now
    return Response(status_code=204)
