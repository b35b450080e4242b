"""`/v1/images` and `/v1/models`: OpenAI's images API with its models, and tasks as other gateways have them.

A client changes its `base_url` and is queued. Its request waits up to nine minutes for the pictures, since the SDK
gives up after ten. The job goes on whatever becomes of the connection.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from daemon.accounts.routes import Route
from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.access import READS, Caller, Reader, Submitter
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.openai.begin import begin
from daemon.gateway.openai.edits import read_edit
from daemon.gateway.openai.fields import Wish, models_of, route_of, wish_of
from daemon.gateway.openai.results import Form, images_response, is_over, pictures_answer, task_of
from daemon.gateway.openai.route import OpenAiRoute, error_object, restarting, still_running
from daemon.gateway.openai.stream import stream_of
from daemon.gateway.requests.bodies import read_object
from daemon.gateway.requests.parameters import prefers_async
from daemon.gateway.work.accepting import named
from daemon.gateway.work.answers import answer
from daemon.gateway.work.finding import find_job, items_of
from daemon.gateway.work.links import Links
from pixmill.records.records import View

router = APIRouter(route_class=OpenAiRoute, tags=["openai"])

WAIT_S: Final = 540.0
POLL_AGAIN_S: Final = "3"


@router.get("/v1/models", dependencies=[READS])
async def models(here: Here) -> Response:
    """The names that `model` may have: the routes, then their models."""
    return answer({"object": "list", "data": [_model(*each) for each in models_of(here.routes).items()]})


@router.get("/v1/models/{ident:path}", dependencies=[READS])
async def model(here: Here, ident: str) -> Response:
    """One name that `model` may have."""
    return answer(_model(ident, here.routes[route_of(ident, here.routes)]))


def _model(ident: str, route: Route) -> dict[str, Any]:
    return {"id": ident, "object": "model", "created": 0, "owned_by": route.provider.name}


@router.post("/v1/images/generations")
async def generate(request: Request, here: Here, caller: Submitter) -> Response:
    """Make pictures of a prompt, and answer when they are there."""
    wish = wish_of(await read_object(request), here.routes)
    return await _answered(request, here, caller, wish, "image_generation")


@router.post("/v1/images/edits")
async def edit(request: Request, here: Here, caller: Submitter) -> Response:
    """Make pictures of up to 16 pictures and a prompt, and answer when they are there."""
    return await _answered(request, here, caller, await _edit(request, here, caller), "image_edit")


@router.post("/v1/images/generations/async", status_code=202)
async def generate_later(request: Request, here: Here, caller: Submitter) -> Response:
    """Begin to make pictures; the answer has the address to poll."""
    wish = wish_of(await read_object(request), here.routes)
    return await _task(request, here, await begin(request, here, caller, _unstreamed(wish)))


@router.post("/v1/images/edits/async", status_code=202)
async def edit_later(request: Request, here: Here, caller: Submitter) -> Response:
    """Begin an edit; the answer has the address to poll."""
    wish = await _edit(request, here, caller)
    return await _task(request, here, await begin(request, here, caller, _unstreamed(wish)))


@router.get("/v1/images/tasks/{ident}")
async def task(request: Request, here: Here, caller: Reader, ident: str) -> Response:
    """The state of pictures that were begun, and their addresses once they are there."""
    view = await find_job(here, caller.tenant_for(None), ident)
    items = await items_of(here, view)
    body = task_of(view, items, here.settings.retention.records)
    if not is_over(view):
        return answer(body, headers={"Retry-After": POLL_AGAIN_S})
    try:
        form = Form(here, Links(request), caller, as_url=True)
        result, headers = await images_response(form, items)
    except Problem as problem:
        return answer(
            {**body, "status": "failed", "http_status": problem.status, "error": error_object(problem)}
        )
    return answer({**body, "image_url": result["data"][0]["url"], "result": result}, headers=headers)


async def _edit(request: Request, here: Gateway, caller: Caller) -> Wish:
    body = await read_edit(request, here, caller)
    inputs = body.pop("inputs")
    wish = wish_of(body, here.routes)
    wish.job["inputs"] = inputs
    return wish


def _unstreamed(wish: Wish) -> Wish:
    if wish.stream:
        raise Problem(400, "invalid", "A task has one answer; leave `stream` out.", field="stream")
    return wish


async def _answered(request: Request, here: Gateway, caller: Caller, wish: Wish, kind: str) -> Response:
    view = await begin(request, here, caller, wish)
    form = Form(here, Links(request), caller, wish.as_url)
    if wish.stream:
        return stream_of(form, wish, kind, view.id, partial(find_job, here, view.tenant, view.id))
    if prefers_async(request):
        return await _task(request, here, view)
    await here.waiting.for_end(view, WAIT_S, request)
    address = form.links.task(view.id)
    with named(view.id, address):
        view = await find_job(here, view.tenant, view.id)
        if is_over(view):
            return await pictures_answer(form, await items_of(here, view))
    raise (restarting if here.waiting.stopped else still_running)(view.id, address)


async def _task(request: Request, here: Gateway, view: View) -> Response:
    address = Links(request).task(view.id)
    body: dict[str, Any] = task_of(view, await items_of(here, view), here.settings.retention.records)
    headers = {"Location": address, "Retry-After": POLL_AGAIN_S, "Preference-Applied": "respond-async"}
    return answer({**body, "poll_url": address}, 202, headers)
