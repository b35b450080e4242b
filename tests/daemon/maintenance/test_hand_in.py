"""After a loss of Redis a heartbeat hands in many runs at once."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.worker.run import Phase
from tests.daemon.worker.bare_replica import Replica

RUNS = 40


async def test_the_runs_of_a_replica_are_handed_in_with_a_few_round_trips(redis: Redis) -> None:
    replica = Replica(redis)
    try:
        await replica.installation.batch("b1", RUNS)
        for item in await replica.installation.claim(RUNS):
            replica.pool.start(item, replica.route, None)
        await replica.has_started(RUNS)
        for run in replica.started:
            run.enter(Phase.LEFT)
        assert {run.noted for run in replica.started} == {"intent_us"}
        # Redis is back at a time before the claims: the items wait, and the runs' epochs are later than theirs.
        for run in replica.started:
            await redis.hset(
                replica.installation.keys.item(run.item.uid), mapping={"state": "queued", "epoch": 0}
            )
        await redis.config_resetstat()
        await replica.heartbeat.beat()
        stats = await redis.info("commandstats")
        for run in replica.started:
            assert await redis.hget(replica.installation.keys.item(run.item.uid), "intent_us")
    finally:
        await replica.close()
    calls = sum(stats.get(name, {"calls": 0})["calls"] for name in ("cmdstat_evalsha", "cmdstat_eval"))
    assert calls <= 6, (
        "the look at all, the first note, and the others together; a script may have to be sent"
    )
