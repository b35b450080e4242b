"""Jobs, and items of batches: accept a job, and read a record, now or when its work has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from daemon.gateway.callers.access import Caller, Reader, Submitter
from daemon.gateway.estimate import UNKNOWN, Outlook
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.requests.bodies import read_object
from daemon.gateway.requests.identity import choose_id
from daemon.gateway.requests.parameters import MOST_WAIT_S, preferred_wait_s, whole_number
from daemon.gateway.requests.route import PlainRoute
from daemon.gateway.work.accepting import accept_job, job_from, named, record_of
from daemon.gateway.work.answers import accepted, answer, look_again_s, shown
from daemon.gateway.work.finding import find_item, find_job, members_of
from daemon.gateway.work.links import Links
from pixmill.contract import Job
from pixmill.contract.entry import MAX_DATA_BYTES
from pixmill.records.views import View

router = APIRouter(route_class=PlainRoute, tags=["jobs"])  # clients poll these


@router.post("/v1/jobs", status_code=202)
async def submit(request: Request, here: Here, caller: Submitter) -> Response:
    """Accept a job. 202 means that it is recorded; the same id and content again is the same job.

    With `Prefer: wait=N` (at most 60 s) the answer is 200 and the record, if the job ends in that time.
    """
    wait_s = preferred_wait_s(request)
    body = await read_object(request, MAX_DATA_BYTES)
    choose_id(request, body, "job")
    body["tenant"] = caller.tenant_for(body.get("tenant"))
    job = job_from(body)
    links = Links.of_tenant(request, caller, job.tenant)
    with named(job.id, links.job(job.id)):
        verdict = await accept_job(here, job)
        if verdict == "new" and wait_s is None and job.n == 1 and job.not_before is None:
            # Most jobs are so: one round trip less, since the record has nothing that is not known here.
            outlook = await here.estimates.of_new(job)
            return _accepted(job, "queued", outlook, links, {"Location": links.job(job.id)})
        return await _begun(request, here, links, job, wait_s)


@router.get("/v1/jobs/{ident}")
async def show_job(
    request: Request,
    here: Here,
    caller: Reader,
    ident: str,
    tenant: str | None = None,
    wait: str | None = None,
) -> Response:
    """The record of a job; with `wait=N` (at most 60 s) as soon as the job has ended, or after that time."""
    owner = caller.tenant_for(tenant)
    return await _record_after(request, here, caller, wait, lambda: find_job(here, owner, ident))


@router.get("/v1/batches/{batch}/items/{ident}")
async def show_item(
    request: Request,
    here: Here,
    caller: Reader,
    batch: str,
    ident: str,
    tenant: str | None = None,
    wait: str | None = None,
) -> Response:
    """The record of an item of a batch; `wait` as for a job."""
    owner = caller.tenant_for(tenant)
    return await _record_after(request, here, caller, wait, lambda: find_item(here, owner, batch, ident))


async def _record_after(
    request: Request, here: Gateway, caller: Caller, wait: str | None, find: Callable[[], Awaitable[View]]
) -> Response:
    """The record as soon as its work has ended, or after `wait` seconds."""
    wait_s = whole_number("wait", wait, 0, 0, MOST_WAIT_S)
    view = await find()
    if wait_s and not view.ended:
        await here.waiting.for_end(view, wait_s, request)
        view = await find()
    return answer(await _record(here, Links.of_tenant(request, caller, view.tenant), view))


async def _begun(request: Request, here: Gateway, links: Links, job: Job, wait_s: int | None) -> Response:
    """The answer for a job that is recorded, after a wait of at most `wait_s` for its end."""
    view = await record_of(here, job)
    headers = {"Location": links.job(job.id)}
    if wait_s is not None:
        headers["Preference-Applied"] = f"wait={wait_s}"
        if view is not None:
            await here.waiting.for_end(view, wait_s, request)
            view = await record_of(here, job)
    if wait_s is not None and view is not None and view.ended:
        return answer(await _record(here, links, view), 200, headers)
    outlook = UNKNOWN if view is None else await here.estimates.of(view, await members_of(here, view))
    # Also where the record cannot be read now: the job is recorded.
    return _accepted(job, "queued" if view is None else view.state, outlook, links, headers)


async def _record(here: Gateway, links: Links, view: View) -> dict[str, Any]:
    members = await members_of(here, view)
    return shown(view, links, await here.estimates.of(view, members), members)


def _accepted(job: Job, state: str, outlook: Outlook, links: Links, headers: Mapping[str, str]) -> Response:
    body = accepted(job.id, state, outlook, links.job_urls(job.id, job.n))
    return answer(body, 202, {**headers, "Retry-After": str(look_again_s(outlook.eta_s))})
