"""`pixmill retry --failed` of a batch that has ended: only missing pictures are made, and no event comes twice."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from pixmill.contract import Job
from pixmill.records.records import GroupView, Records
from tests.daemon.cli.conftest import Pixmill
from tests.daemon.harness import Installation, eventually
from tests.daemon.live import made, refused, working

BAD = {"i2", "i5"}


class Provider:
    """Refuses two of the pictures until it has changed its mind; remembers its requests."""

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.refuses = BAD

    async def decide(self, item: Claimed, job: Job) -> Outcome:
        self.requested.append(job.id)
        return refused() if job.id in self.refuses else made(item)


async def ended(installation: Installation) -> GroupView | None:
    view = await Records(installation.redis, installation.keys).group("default/b1")
    return view if view is not None and view.ended else None


async def test_a_retry_makes_only_the_pictures_that_failed(pixmill: Pixmill, redis: Redis) -> None:
    provider = Provider()
    async with working(redis, provider.decide) as installation:
        await installation.batch("b1", 7)
        view: GroupView = await eventually(lambda: ended(installation))
        assert (view.state, view.counts.failed) == ("completed_with_errors", 2)
        while await installation.queue.close_groups():
            pass
        before = {uid: await installation.record(uid) for uid in names() if uid.rsplit("/")[-1] not in BAD}

        provider.requested.clear()
        provider.refuses = set()
        ran = await pixmill("retry", "b1", "--failed")
        assert (ran.code, "2 queued again" in ran.out) == (0, True)
        view = await eventually(lambda: ended(installation))
        assert (await pixmill("watch", "b1")).code == 0

    assert sorted(provider.requested) == sorted(BAD)
    assert (view.state, view.counts.succeeded, view.counts.total) == ("completed", 7, 7)
    assert {uid: await installation.record(uid) for uid in before} == before
    kinds = [(kind, data["item"]) for kind, data in await installation.events()]
    assert all(kinds.count(("job.succeeded", uid.rsplit("/")[-1])) == 1 for uid in names())
    assert "nothing to retry" in (await pixmill("retry", "b1", "--failed")).out


def names() -> list[str]:
    return [f"default/b1/i{number}" for number in range(7)]
