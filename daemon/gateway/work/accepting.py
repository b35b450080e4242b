"""Accepts a job in a request: 202 means that it is recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import orjson
from redis.exceptions import RedisError

from daemon.gateway.answering.problems import Problem, of_rejection, problem_of
from daemon.gateway.gateway import Gateway
from daemon.gateway.requests.origin import origin
from daemon.intake.acceptance import CONFLICT, Verdict
from daemon.storage.object_store import StorageError
from pixmill.contract import JOB_TYPE, Job, Rejection, parse_payload
from pixmill.records.keys import job_gid
from pixmill.records.views import View

AGAIN_S = 30  # where nobody knows how long the work ahead takes


def job_from(body: dict[str, Any]) -> Job:
    """The job of a body with an id and a tenant. Raises Rejection."""
    job = parse_payload(orjson.dumps(body), JOB_TYPE)
    if not isinstance(job, Job):
        raise TypeError(f"a {type(job).__name__} was read as a job")
    return job


@contextmanager
def named(ident: str, address: str) -> Iterator[None]:
    """Let the answer to an outage name the work and its address: it may be recorded, and we may have chosen its id."""
    try:
        yield
    except (RedisError, OSError, StorageError, Problem) as error:
        problem = problem_of(error)
        if problem.status != 503:
            raise
        problem.more["id"] = ident
        problem.headers["Location"] = address
        raise problem from error


async def accept_job(here: Gateway, job: Job) -> Verdict:
    """Record a job, or find that it is recorded. Raises Problem: a conflict, a full backlog; and Rejection."""
    try:
        verdict = await here.acceptor.job(job, origin())
    except Rejection as rejection:
        if rejection.code != "backlog_full":
            raise
        await raise_full(here, rejection, job.tenant, job.route, job.n)
    if verdict == "conflict":
        raise Problem(409, "id_conflict", CONFLICT, field="id")
    return verdict


async def raise_full(here: Gateway, rejection: Rejection, tenant: str, route: str, pictures: int) -> NoReturn:
    """Raise the answer for a full backlog: how deep it is, its cap, and when there is room for `pictures`."""
    depth = int(await here.redis.hget(here.keys.tenants, tenant) or 0)
    cap = here.queue.max_backlog_per_tenant
    problem = of_rejection(rejection)
    room_s = (await here.estimates.of_calls(route, max(1, depth + pictures - cap))).eta_s
    problem.retry_after_s = AGAIN_S if room_s is None else max(1, math.ceil(room_s))
    problem.more |= {"depth": depth, "cap": cap}
    raise problem


async def record_of(here: Gateway, job: Job) -> View | None:
    """The record of a job that was just accepted; None if it cannot be read now, which changes nothing for the job."""
    gid = job_gid(job.tenant, job.id)
    try:
        return await (here.records.item(gid) if job.n == 1 else here.records.group(gid))
    except (RedisError, OSError):
        return None
