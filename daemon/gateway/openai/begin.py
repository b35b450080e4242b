"""Begins the job of a request, or finds the one that an earlier send of the same request began."""

from __future__ import annotations

import re
import secrets
from dataclasses import asdict
from typing import Final

import orjson
from fastapi import Request

from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.access import Caller
from daemon.gateway.gateway import Gateway
from daemon.gateway.openai.fields import Wish
from daemon.gateway.requests.identity import id_of_key, idempotency_key
from daemon.gateway.work.accepting import accept_job, job_from, named
from daemon.gateway.work.finding import find_job
from daemon.gateway.work.joining import digest_of, joined_id
from daemon.gateway.work.links import Links
from pixmill.records.records import View

# Vendors' SDKs repeat a request by themselves, and count that here (source: openai-python, _base_client.py).
RETRY_COUNT: Final = "x-stainless-retry-count"
JOINED_S: Final = 600.0  # as long as an SDK waits for one answer


async def begin(request: Request, here: Gateway, caller: Caller, wish: Wish) -> View:
    """The record of the request's job. Raises Problem, Rejection."""
    tenant = caller.tenant_for(None)
    fields = {**wish.job, "id": await _ident(request, here, caller, tenant, wish), "tenant": tenant}
    job = job_from(fields)
    with named(job.id, Links(request).task(job.id)):
        await accept_job(here, job)
        return await find_job(here, tenant, job.id)


async def _ident(request: Request, here: Gateway, caller: Caller, tenant: str, wish: Wish) -> str:
    if (key := idempotency_key(request)) is not None:
        return id_of_key(key)
    new_id = f"img-{secrets.token_hex(8)}"
    count = request.headers.get(RETRY_COUNT)
    if count is None or not re.fullmatch(r"\d{1,4}", count, re.ASCII):
        return new_id
    # Its repetition may have come before it, while its pictures were read, and has begun the work.
    if await request.is_disconnected():
        raise Problem(400, "client_gone", "The connection was closed before the work began.")
    content = orjson.dumps(asdict(wish), option=orjson.OPT_SORT_KEYS)
    send = digest_of(caller, tenant, request.url.path, content)
    return await joined_id(here, send, new_id, f"{tenant}//", kept_s=JOINED_S, count=int(count))
