"""A batch whose parts come late, doubled or after a cancel ends in the right state and leaves no key for ever."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.queue.outcomes import Succeeded
from tests.daemon.harness import Installation
from tests.daemon.queue.queue_reading import BY_WORK, read_all

DONE = Succeeded({"images": []})
GID = "default/b1"


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


async def part(installation: Installation, number: int, *ids: str, parts: int = 3) -> None:
    payload: dict[str, Any] = {"id": "b1", "part": number, "parts": parts, "defaults": {"prompt": "x"}}
    await installation.submit({**payload, "items": [{"id": ident} for ident in ids]}, type="pixmill.batch.v1")


async def make_all(installation: Installation) -> int:
    made = 0
    while items := await installation.claim(10):
        for item in items:
            await installation.queue.settle(item, DONE)
        made += len(items)
    return made


async def close(installation: Installation) -> list[str]:
    """Let the janitor finish; returns the keys of the work that would stay for ever."""
    while await installation.queue.close_groups(page=1):
        pass
    reading = await read_all(installation.redis, installation.keys)
    return [name for name, mortal in reading.mortal.items() if BY_WORK.match(name) and not mortal]


async def test_an_item_that_is_in_three_parts_is_counted_once_and_the_batch_ends(
    installation: Installation,
) -> None:
    await part(installation, 1, "a", "b")
    await part(installation, 2, "a", "c")
    await part(installation, 3, "a", "d")
    assert (await installation.group(GID))["total"] == "4"
    assert await make_all(installation) == 4
    assert (await installation.group(GID))["state"] == "completed"


async def test_a_part_after_the_end_of_a_cancelled_batch_leaves_no_key_for_ever(
    installation: Installation,
) -> None:
    await part(installation, 1, "a", parts=2)
    await installation.orders.cancel("group", GID, ["queued"])
    assert await make_all(installation) == 0
    assert await close(installation) == []
    await part(installation, 2, "b", parts=2)
    group = await installation.group(GID)
    assert (group["state"], group["cancelled"], group["total"]) == ("cancelled", "2", "2")
    assert await make_all(installation) == 0
    assert await close(installation) == []
    assert (await installation.kinds()).count("batch.finished") == 1


async def test_a_part_after_a_retry_of_its_cancelled_batch_is_made(
    installation: Installation,
) -> None:
    await part(installation, 1, "a", parts=2)
    await installation.orders.cancel("group", GID, ["queued"])
    await installation.orders.retry("group", GID, ["cancelled"])
    assert await make_all(installation) == 1
    assert (await installation.group(GID))["state"] == "completed", "it waits for no part any more"
    assert await close(installation) == []

    await part(installation, 2, "b", parts=2)
    assert (await installation.group(GID))["state"] == "running"
    assert await installation.redis.zscore(installation.keys.active, GID) is not None
    assert await make_all(installation) == 1
    group = await installation.group(GID)
    assert (group["state"], group["succeeded"], group["total"]) == ("completed", "2", "2")
    assert await close(installation) == []
