"""The doctor finds entries that a producer trimmed away, and readers that are not ours."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.doctor.checks import Finding, State
from daemon.doctor.stream_checks import stream_checks
from pixmill.records.keys import INTAKE_GROUP, Keys
from tests.daemon.harness import Installation

KEYS = Keys("pixmill")
JOBS = KEYS.jobs
QUEUE = KEYS.stream("default", "normal")


async def found(client: Redis, check: str) -> Finding:
    return await stream_checks(client, KEYS, ["default"])[check]()


async def test_settled_entries_are_not_lost(redis: Redis) -> None:
    installation = Installation(redis)
    for number in range(5):
        await installation.submit({"id": f"j{number}", "prompt": "x"})
    await installation.add("no json")
    await installation.take_all()
    await installation.add({"id": "waiting", "prompt": "x"})
    finding = await found(redis, "jobs")
    assert finding.state is State.OK
    assert "waiting: 1" in finding.says


async def test_entries_that_a_producer_trimmed_away_are_counted(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "first", "prompt": "x"})
    for number in range(5):
        await installation.add({"id": f"j{number}", "prompt": "x"})
    await redis.xtrim(JOBS, maxlen=2, approximate=False)
    finding = await found(redis, "jobs")
    assert finding.state is State.FAIL
    assert "accepted: 3." in finding.says
    assert "MAXLEN" in finding.says
    await installation.take_all()
    assert "accepted: 3." in (await found(redis, "jobs")).says, "later jobs hide no loss"


async def test_a_loss_is_forgotten_by_the_command_that_is_shown(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "first", "prompt": "x"})
    await installation.add({"id": "lost", "prompt": "x"})
    await redis.xtrim(JOBS, maxlen=0, approximate=False)
    says = (await found(redis, "jobs")).says
    command = says.rsplit("`", 2)[1].split()
    assert command[:3] == ["redis-cli", "-u", '"$REDIS_URL"']
    assert command[3] == "HINCRBY"
    await redis.hincrby(command[4], command[5], int(command[6]))
    assert (await found(redis, "jobs")).state is State.OK


async def test_pending_entries_are_not_lost_and_hide_no_loss(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "first", "prompt": "x"})
    entries = [await installation.add({"id": f"j{number}", "prompt": "x"}) for number in range(5)]
    await redis.xreadgroup(INTAKE_GROUP, "w", {JOBS: ">"}, count=1)
    assert (await found(redis, "jobs")).state is State.OK
    await redis.xdel(JOBS, *entries[3:])
    assert "accepted: 2." in (await found(redis, "jobs")).says


async def test_an_unread_stream_is_a_warning_and_a_missing_one_is_not(
    redis: Redis,
) -> None:
    assert (await found(redis, "jobs")).state is State.OK
    await redis.xadd(JOBS, {"data": "{}"})
    assert (await found(redis, "jobs")).state is State.WARN


# --- groups


async def test_the_groups_of_a_running_installation_are_its_own(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "one", "prompt": "x"})
    await installation.claim()
    assert (await found(redis, "groups")).state is State.OK


async def test_a_queue_that_no_worker_has_read_is_a_warning(redis: Redis) -> None:
    assert (await found(redis, "groups")).state is State.OK, "there is no queue yet"
    await Installation(redis).submit({"id": "one", "prompt": "x"})
    finding = await found(redis, "groups")
    assert finding.state is State.WARN
    assert f"No worker reads {QUEUE} yet" in finding.says


async def test_a_group_of_another_program_is_named_with_the_command_that_removes_it(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "one", "prompt": "x"})
    await installation.claim()
    for stream in (JOBS, QUEUE):
        await redis.xgroup_create(stream, "our $(analytics)", id="0")
    finding = await found(redis, "groups")
    assert finding.state is State.WARN
    for stream in (JOBS, QUEUE):
        assert f"`redis-cli -u \"$REDIS_URL\" XGROUP DESTROY {stream} 'our $(analytics)'`" in finding.says


async def test_a_key_of_another_type_in_the_place_of_a_queue_is_a_failure(redis: Redis) -> None:
    await redis.set(QUEUE, "planted")
    finding = await found(redis, "groups")
    assert finding.state is State.FAIL
    assert f'`redis-cli -u "$REDIS_URL" RENAME {QUEUE} {QUEUE}-foreign`' in finding.says
