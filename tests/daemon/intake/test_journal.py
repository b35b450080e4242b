"""Work that is accepted without an entry in the jobs stream is journaled: it ends also if its process is killed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.client.sending import batch_parts
from daemon.contract import BATCH_TYPE, Batch, Job, Rejection, parse_payload
from daemon.intake.acceptance import Acceptor, PreparedPart
from daemon.maintenance.janitor import Janitor
from daemon.queue.outcomes import Succeeded
from tests.daemon.harness import LEASE_S, Installation

JOURNAL = "pixmill:accepting*"
FIELDS = {"id": "b1", "defaults": {"prompt": "x"}, "max_in_flight": 2, "metadata": {"a": "b"}}


class Killed(Exception):  # noqa: N818 - what a killed process does not do any more
    pass


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


def acceptor_of(installation: Installation, on_queued: Any = lambda _: None) -> Acceptor:
    return Acceptor(installation.queue, installation.routes, installation.webhooks, on_queued, journals=True)


def parts_of(acceptor: Acceptor, count: int) -> list[PreparedPart]:
    parts = batch_parts(FIELDS, [{"id": f"i{k}"} for k in range(count)], part_bytes=3000)
    found = [parse_payload(part, BATCH_TYPE) for part in parts]
    return [acceptor.prepared(part, {}) for part in found if isinstance(part, Batch)]


def job_of(**fields: Any) -> Job:
    job = parse_payload(orjson.dumps({"id": "j1", "prompt": "x", **fields}))
    assert isinstance(job, Job)
    return job


async def go_on(installation: Installation) -> int:
    """Let the janitor send what is stranded, and intake take it; then make all pictures. Returns how many."""
    await Janitor(installation.queue, ["default"], lease_s=LEASE_S).send_stranded(age_s=0)
    await installation.take_all()
    made = 0
    while items := await installation.claim(50):
        for item in items:
            await installation.queue.settle(item, Succeeded({"images": []}))
        made += len(items)
    return made


async def test_a_batch_that_was_accepted_leaves_no_journal(installation: Installation) -> None:
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    assert len(parts) > 2
    await acceptor.part(parts[0], later=parts[1:])
    assert await installation.redis.zcard("pixmill:accepting") == len(parts) - 1
    for part in parts[1:]:
        await acceptor.part(part)
    assert await installation.redis.keys(JOURNAL) == []
    assert await go_on(installation) == 600


async def test_a_batch_that_broke_off_between_two_parts_ends_whole(installation: Installation) -> None:
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    await acceptor.part(parts[0], later=parts[1:])
    assert await go_on(installation) == 600
    group = await installation.group("default/b1")
    assert (group["state"], group["total"], group["max_in_flight"]) == ("completed", "600", "2")
    assert await installation.redis.keys(JOURNAL) == []


async def test_a_batch_that_broke_off_inside_a_part_ends_whole(installation: Installation) -> None:
    def killed(_: str) -> None:
        raise Killed

    acceptor = acceptor_of(installation, killed)
    first, *later = parts_of(acceptor, 250)
    with pytest.raises(Killed):
        await acceptor.part(first, later=later)
    assert await go_on(installation) == 250
    assert (await installation.group("default/b1"))["state"] == "completed"


async def test_a_job_of_several_pictures_that_broke_off_ends_whole(installation: Installation) -> None:
    opened = acceptor_of(installation)
    job = job_of(n=3, seed=7)
    accept, installation.queue.accept = installation.queue.accept, None  # type: ignore[method-assign,assignment]  # the process is gone
    with pytest.raises(TypeError):
        await opened.job(job, {})
    installation.queue.accept = accept  # type: ignore[method-assign]
    assert await go_on(installation) == 3
    assert (await installation.group("default//j1"))["state"] == "completed"
    assert await installation.redis.keys(JOURNAL) == []


async def test_a_refusal_and_a_repeat_leave_no_journal(installation: Installation) -> None:
    acceptor = acceptor_of(installation)
    await acceptor.job(job_of(n=2), {})
    assert await acceptor.job(job_of(n=2), {}) == "duplicate"
    assert await acceptor.job(job_of(n=2, prompt="y"), {}) == "conflict"
    installation.queue.max_backlog_per_tenant = 3
    with pytest.raises(Rejection, match="may have 3 items waiting"):
        await acceptor.job(job_of(id="j2", n=5), {})
    assert await installation.redis.keys(JOURNAL) == []


async def test_a_living_process_and_a_replica_accept_the_same_part_once(installation: Installation) -> None:
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    await acceptor.part(parts[0], later=parts[1:])
    made = await go_on(installation)
    for part in parts[1:]:
        assert await acceptor.part(part) == "duplicate"
    assert made + await go_on(installation) == 600


async def test_the_stream_is_not_journaled(installation: Installation) -> None:
    await installation.batch("b1", 3)
    assert await installation.redis.keys(JOURNAL) == []


async def test_a_deleted_batch_leaves_no_journal(installation: Installation) -> None:
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    await acceptor.part(parts[0], later=parts[1:])
    await installation.orders.cancel("group", "default/b1", ["queued"])
    assert await installation.orders.delete("group", "default/b1") == "gone"
    assert await installation.redis.keys(JOURNAL) == []
    assert await go_on(installation) == 0
