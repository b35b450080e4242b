"""Work that is accepted without an entry in the jobs stream is journaled: it ends also if its process is killed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection as Connection
from redis.exceptions import ResponseError

from daemon.intake.acceptance import Acceptor, PreparedPart
from daemon.intake.journal import Journal, journaled
from daemon.maintenance.resumer import Resumer
from daemon.queue.outcomes import Succeeded
from pixmill.client.sending import batch_parts
from pixmill.contract import BATCH_TYPE, Batch, Job, Rejection, parse_payload
from pixmill.contract.fields import TRUSTED
from tests.daemon.harness import Installation

JOURNAL = "pixmill:accepting*"
FIELDS = {"id": "b1", "defaults": {"prompt": "x"}, "max_in_flight": 2, "metadata": {"a": "b"}}


class Killed(Exception):  # noqa: N818 - what a killed process does not do any more
    pass


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


def acceptor_of(installation: Installation, on_queued: Any = lambda _: None) -> Acceptor:
    return Acceptor(
        installation.queue,
        installation.routes,
        installation.webhooks,
        on_queued,
        journal=Journal(installation.redis, installation.keys),
    )


def resumer_of(installation: Installation) -> Resumer:
    return Resumer(installation.redis, installation.keys.prefix, installation.acceptor)


def parts_of(acceptor: Acceptor, count: int) -> list[PreparedPart]:
    parts = batch_parts(FIELDS, [{"id": f"i{k}"} for k in range(count)], part_bytes=3000)
    found = [parse_payload(part, BATCH_TYPE) for part in parts]
    return [acceptor.prepared(part, {}) for part in found if isinstance(part, Batch)]


def job_of(**fields: Any) -> Job:
    job = parse_payload(orjson.dumps({"id": "j1", "prompt": "x", **fields}))
    assert isinstance(job, Job)
    return job


async def go_on(installation: Installation) -> int:
    """Let a replica go on with what is stranded; then make all pictures. Returns how many."""
    await resumer_of(installation).resume(age_s=0)
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


async def test_each_part_goes_to_one_replica_at_a_time(installation: Installation) -> None:
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    await acceptor.part(parts[0], later=parts[1:])
    for name in await installation.redis.zrange("pixmill:accepting", 0, -1):
        await installation.redis.zadd("pixmill:accepting", {name: 1})
    taken = await resumer_of(installation).take(60)
    assert len(taken) == len(parts) - 1
    assert await resumer_of(installation).take(60) == []


async def test_a_part_that_is_larger_than_an_entry_of_the_stream_ends_whole(
    installation: Installation,
) -> None:
    acceptor = acceptor_of(installation)
    items = [{"id": f"i{k}", "prompt": "x" * 2000} for k in range(500)]
    large = acceptor.prepared(Batch.model_validate({"id": "b1", "items": items}), {})
    opened, installation.queue.accept = installation.queue.accept, None  # type: ignore[method-assign,assignment]  # as above
    with pytest.raises(TypeError):
        await acceptor.part(large)
    installation.queue.accept = opened  # type: ignore[method-assign]
    assert await go_on(installation) == 500


async def test_a_part_that_became_other_work_leaves_the_journal(installation: Installation) -> None:
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    await acceptor.part(parts[0], later=parts[1:])
    await installation.orders.cancel("group", "default/b1", ["queued"])
    await installation.orders.begin_delete("group", "default/b1")
    assert await go_on(installation) == 0
    assert await installation.redis.keys(JOURNAL) == []


async def test_a_part_with_a_route_that_is_unknown_here_waits_for_another_replica(redis: Redis) -> None:
    installation, other = Installation(redis, routes=("default", "new")), Installation(redis)
    acceptor = acceptor_of(installation)
    items = [{"id": f"i{k}", "prompt": "x", "route": "new"} for k in range(600)]
    parts = [
        acceptor.prepared(Batch.model_validate(orjson.loads(part)), {})
        for part in batch_parts({"id": "b1"}, items, part_bytes=10000)
    ]
    await acceptor.part(parts[0], later=parts[1:])
    assert await resumer_of(other).resume(age_s=0) == len(parts) - 1
    assert await resumer_of(installation).resume(age_s=0) == len(parts) - 1
    assert await installation.redis.zcard(installation.keys.members("default/b1")) == 600


async def test_a_journal_of_another_type_changes_nothing(installation: Installation) -> None:
    await installation.redis.set("pixmill:accepting", "somebody's")
    with pytest.raises(ResponseError, match="pixmill:accepting"):
        await installation.batch("b1", 2)
    assert await installation.redis.keys("pixmill:*b1*") == []


async def spoil(installation: Installation, name: bytes, data: bytes) -> None:
    """Make a part the oldest of the journal, with other content."""
    await installation.redis.zadd("pixmill:accepting", {name: 1})
    mark = await installation.redis.hget("pixmill:batch:default/b1", "mark") or b""
    await installation.redis.set(b"pixmill:accepting:" + name + mark, data)


@pytest.mark.parametrize("data", [b"pixmill.batch.v1 {", b'pixmill.batch.v1 {"id": 1}', b"pixmill.job.v1 []"])
async def test_a_part_that_cannot_be_read_holds_up_no_other_one(
    installation: Installation, data: bytes
) -> None:
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    await acceptor.part(parts[0], later=parts[1:])
    name = (await installation.redis.zrange("pixmill:accepting", 0, 0))[0]
    await spoil(installation, name, data)
    await resumer_of(installation).resume(age_s=0)
    assert await installation.redis.zrange("pixmill:accepting", 0, -1) == [name], (
        "it stays for another replica"
    )
    assert len(await installation.redis.keys("pixmill:item:*")) == 600 - len(parts[1].items)


async def test_a_part_that_a_newer_gateway_journaled_is_accepted(installation: Installation) -> None:
    data = orjson.dumps(
        {"id": "b1", "items": [{"id": "a", "prompt": "x", "newer_field": 1}], "newer_field": 2}
    )
    newer = acceptor_of(installation).prepared(Batch.model_validate(orjson.loads(data), context=TRUSTED), {})
    await installation.queue.open_group(newer.gid, "batch", {1: journaled(BATCH_TYPE, data)}, **newer.group)
    assert await go_on(installation) == 1


async def test_no_call_carries_much_more_than_a_mebibyte_of_the_journal(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    send = Connection.send_packed_command

    async def counted(self: Connection, command: Any, *given: Any, **named: Any) -> None:
        sent.append(len(command) if isinstance(command, bytes) else sum(map(len, command)))
        await send(self, command, *given, **named)

    acceptor = acceptor_of(installation)
    items = [{"id": f"i{k}", "prompt": "x" * 20_000} for k in range(250)]
    batches = [parse_payload(part, BATCH_TYPE) for part in batch_parts(FIELDS, items)]
    parts = [acceptor.prepared(batch, {}) for batch in batches if isinstance(batch, Batch)]
    monkeypatch.setattr(Connection, "send_packed_command", counted)
    await acceptor.part(parts[0], later=parts[1:])
    assert sum(sent) > 4 * 1024**2
    assert max(sent) < 1.5 * 1024**2
    assert await installation.redis.zcard("pixmill:accepting") == len(parts) - 1


@pytest.mark.parametrize("verdict", ["conflict", "full"])
async def test_a_batch_that_is_not_opened_leaves_no_later_part(
    installation: Installation, verdict: str
) -> None:
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    if verdict == "conflict":
        await installation.batch("b1", 1)
        assert await acceptor.part(parts[0], later=parts[1:]) == "conflict"
    else:
        installation.queue.max_backlog_per_tenant = 3
        with pytest.raises(Rejection, match="may have 3 items waiting"):
            await acceptor.part(parts[0], later=parts[1:])
    assert await installation.redis.keys(JOURNAL) == []


async def test_what_a_process_wrote_before_it_was_killed_ends_by_itself(installation: Installation) -> None:
    parts = parts_of(acceptor_of(installation), 600)
    journal = Journal(installation.redis, installation.keys)
    await journal.stage(parts[0].gid, [part.batch for part in parts[1:]])
    names = await installation.redis.keys(JOURNAL)
    assert len(names) == len(parts) - 1
    assert all([await installation.redis.pttl(name) > 0 for name in names])
    assert await go_on(installation) == 0


async def test_two_senders_of_one_id_do_not_mix_their_parts(installation: Installation) -> None:
    """The loser has written its later parts, and the winner is killed after its first part."""
    acceptor = acceptor_of(installation)
    parts = parts_of(acceptor, 600)
    others = [part.batch.model_copy(update={"metadata": {"a": "other"}}) for part in parts]
    journal = Journal(installation.redis, installation.keys)
    await journal.stage(parts[0].gid, others[1:])
    await acceptor.part(parts[0], later=parts[1:])
    await journal.stage(parts[0].gid, others[1:])
    assert await go_on(installation) == 600
    for part in parts:
        assert await acceptor.part(part) == "duplicate"
