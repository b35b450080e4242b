"""Redis acted without our knowledge, or lost its reply: claims and settles around a failover."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.maintenance.write_probe import WriteProbe
from daemon.queue.messages import Claim, Claimed
from daemon.queue.outcomes import Failed, Outcome, Throttled
from daemon.settings.model import RetentionSettings
from daemon.worker.pool import KEPT_S, Settles
from tests.daemon.worker.bare_replica import Replica
from tests.daemon.worker.conftest import MakeReplica
from tests.servers import RedisServer

REFUSED = {"kind": "moderation_input", "message": "No.", "charged": "no"}


@pytest.fixture
def redis(lasting: Redis) -> Redis:
    return lasting


def loses_replies(monkeypatch: pytest.MonkeyPatch, replica: Replica, count: int) -> list[Claim]:
    """The replies to the first `count` claims that took items are lost; the list gets them."""
    real, lost = replica.queue.claim, list[Claim]()

    async def claim(*args: Any, **options: Any) -> Claim:
        reply = await real(*args, **options)
        if reply.items and len(lost) < count:
            lost.append(reply)
            raise RedisConnectionError("the reply is lost")
        return reply

    monkeypatch.setattr(replica.queue, "claim", claim)
    return lost


async def test_an_item_whose_claim_had_no_reply_is_put_back_and_starts(
    replica_of: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_of(in_flight=4)
    lost = loses_replies(monkeypatch, replica, 2)
    await replica.installation.submit({"id": "a", "prompt": "x"})
    replica.dispatch()
    await replica.has_started(1)
    assert len(lost) == 2
    (run,) = replica.started
    assert int(run.item.epoch) > int(lost[-1].items[0].epoch)
    assert not run.may_have_called
    replica.may_end.set()
    await replica.has_state("succeeded")
    record = await replica.installation.record("default//a")
    assert (record["attempts"], record.get("crashes", "0")) == ("0", "0")


async def test_a_claim_without_a_reply_before_a_failover_is_no_unknown_outcome(
    replica: Replica, lasting_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loses_replies(monkeypatch, replica, 1)
    await replica.installation.submit({"id": "a", "prompt": "x", "on_unknown_outcome": "hold"})
    with pytest.raises(RedisConnectionError):
        await replica.dispatcher._claim(1, None)
    lasting_server.lose(lasting_server.written)
    replica.dispatch()
    await replica.has_started(1)
    assert not replica.started[0].adopted
    assert not replica.started[0].may_have_called


async def claimed(replica: Replica, *names: str) -> list[Claimed]:
    await replica.installation.submit(*({"id": name, "prompt": "x"} for name in names))
    return await replica.installation.claim(len(names))


async def released(replica: Replica) -> int:
    return await replica.queue.unclaim("default", replica.pool.known())


async def test_only_what_nobody_knows_of_is_put_back(replica: Replica) -> None:
    runs, settled, unknown, noted, tasked, others = await claimed(replica, *"abcdef")
    replica.pool.start(runs, replica.route, None)
    await replica.pool.settles.settle(settled, Throttled(REFUSED, 0), "no")
    await replica.queue.note_intent(noted)
    await replica.queue.note_receipt(tasked, b'{"task_id":"t1"}')
    await replica.installation.redis.hset(replica.installation.keys.item(others.uid), "worker", "w2")
    assert await released(replica) == 1
    assert (await replica.installation.record(unknown.uid))["state"] == "queued"
    assert await released(replica) == 0


async def test_an_item_whose_run_was_given_up_is_not_put_back(replica_of: MakeReplica) -> None:
    """Its call may have left, and Redis may lose that another replica has it."""
    replica = replica_of(in_flight=4)
    await replica.installation.submit({"id": "a", "prompt": "x"})
    await replica.dispatcher._step()
    [run] = replica.pool.current()
    assert run.item.intended
    assert await released(replica) == 0
    replica.pool.abandon(run)
    assert run.task is not None
    await asyncio.wait([run.task])
    assert replica.pool.current() == []
    assert await released(replica) == 0


async def test_an_item_that_was_taken_over_a_moment_ago_is_not_put_back(replica: Replica) -> None:
    await claimed(replica, "a")
    await replica.queue.reclaim("default", "normal", lease_s=0, cursor="0-0")
    assert await released(replica) == 0, "its former owner may have made a call"


async def test_a_settle_that_redis_lost_shortly_ago_is_no_lost_claim(
    replica: Replica, lasting_server: RedisServer
) -> None:
    (item,) = await claimed(replica, "a")
    before = lasting_server.written
    await replica.queue.note_intent(item)
    await replica.pool.settles.settle(item, Failed(REFUSED), "no")
    lasting_server.lose(before)
    assert await released(replica) == 0


@pytest.mark.parametrize("outcome", [Failed(REFUSED), Throttled(REFUSED, 60)])
async def test_a_settle_that_redis_lost_is_sent_again(
    replica: Replica, lasting_server: RedisServer, outcome: Outcome
) -> None:
    probe = WriteProbe(replica.queue, RetentionSettings())
    probe.on_life = replica.pool.settles.note_life
    (item,) = await claimed(replica, "a")
    await replica.queue.note_intent(item)
    await probe.write()
    before = lasting_server.written
    state = await replica.pool.settles.settle(item, outcome, "no")
    lasting_server.lose(before)
    assert (await replica.installation.record("default//a"))["state"] == "running"
    await probe.write()
    await replica.has_state(state)
    assert (await replica.installation.record("default//a"))["calls_no"] == "1"


async def test_a_settle_that_was_not_lost_changes_nothing_when_it_is_sent_again(
    replica: Replica, lasting_server: RedisServer
) -> None:
    probe = WriteProbe(replica.queue, RetentionSettings())
    probe.on_life = replica.pool.settles.note_life
    (item,) = await claimed(replica, "a")
    await probe.write()
    await replica.pool.settles.settle(item, Throttled(REFUSED, 0), "no")
    (again,) = await replica.installation.claim()
    lasting_server.lose(lasting_server.written)
    before = await replica.installation.record("default//a")
    await probe.write()
    assert await replica.installation.record("default//a") == before
    assert again.throttles == 1


async def test_settles_are_kept_until_redis_has_lived_long_enough(replica: Replica) -> None:
    now_s = 0.0
    settles = Settles(replica.queue, clock=lambda: now_s)
    (item,) = await claimed(replica, "a")
    await settles.settle(item, Failed(REFUSED), "no")
    now_s += 10 * KEPT_S  # an outage of Redis
    assert settles.runs() == [(item.uid, item.epoch)]
    await settles.note_life("one")
    assert settles.runs() == []
