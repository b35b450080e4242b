"""Items of a route with spares: who may take them, what waits aside, and what stays right meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.queue.messages import Claimed, Serving
from daemon.queue.outcomes import Failed, Released, Retry, Succeeded, Throttled
from daemon.queue.queue import Queue
from tests.daemon.harness import Installation

ACCOUNTS = ("default", "spare")
TASK = b'{"task_id":"t1"}'
SPARES_TASK = b'{"task_id":"t2","route":"spare","instead_of":"default"}'
UNSENT = {"kind": "network_unsent", "message": "No way.", "charged": "no", "retryable": True}


def own(down: Sequence[str] = ()) -> Serving:
    return Serving("default", ACCOUNTS, down, spare=False, differs=False)


def spare(*, differs: bool = True, down: Sequence[str] = ("default",)) -> Serving:
    return Serving("spare", ACCOUNTS, down, spare=True, differs=differs)


async def claim(queue: Queue, serving: Serving, count: int = 1, **more: Any) -> list[Claimed]:
    return (await queue.claim("default", count, serving=serving, **more)).items


def names(items: Sequence[Claimed]) -> list[str]:
    return [item.uid.rpartition("/")[2] for item in items]


@pytest.fixture
def here(redis: Redis) -> Installation:
    return Installation(redis)


async def aside(here: Installation, account: str = "default") -> list[str]:
    uids = await here.redis.lrange(here.keys.aside("default", account), 0, -1)
    return [uid.decode().rpartition("/")[2] for uid in uids]


async def depth(here: Installation, state: str) -> int:
    return int(await here.redis.hget(here.keys.depth, f"default|normal|{state}") or 0)


async def test_a_spare_takes_items_and_the_record_and_the_event_name_both_routes(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x"})
    (item,) = await claim(here.queue, spare())
    assert (await here.record(item.uid))["via"] == "spare"
    (started,) = [data for kind, data in await here.events() if kind == "job.started"]
    assert (started["route"], started["instead_of"]) == ("spare", "default")
    await here.queue.settle(item, Succeeded({"images": [], "attempts": 1}), "yes")
    (succeeded,) = [data for kind, data in await here.events() if kind == "job.succeeded"]
    assert "route" not in succeeded, "the head of the record has changed"


async def test_its_own_account_leaves_no_trace_of_a_spare(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x"})
    (item,) = await claim(here.queue, spare())
    await here.queue.settle(item, Throttled(UNSENT, 0.0), "no")
    (item,) = await claim(here.queue, own())
    assert (await here.record(item.uid))["via"] == "default"
    assert "route" not in [data for kind, data in await here.events() if kind == "job.started"][-1]


async def test_an_item_that_must_not_go_over_waits_aside_for_its_own_route(here: Installation) -> None:
    await here.submit(
        {"id": "stays", "prompt": "x", "fallback": False},
        {"id": "goes", "prompt": 'says "fallback":false', "params": {"fallback": False}},
    )
    assert names(await claim(here.queue, spare(), 5)) == ["goes"]
    assert await aside(here) == ["stays"]
    assert await depth(here, "queued") == 1
    assert await here.queue.take_back([("default", "default")]) == 1
    assert names(await claim(here.queue, own())) == ["stays"]


async def test_an_item_that_the_spare_cannot_make_waits_for_its_own_route(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x"})
    (item,) = await claim(here.queue, spare())
    await here.queue.note_unfit(item, "spare")
    await here.queue.settle(item, Released())
    assert await claim(here.queue, spare()) == []
    assert await aside(here) == ["j1"]
    await here.queue.take_back([("default", "default")])
    assert names(await claim(here.queue, own())) == ["j1"]


async def test_a_worker_that_lost_the_item_notes_nothing(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x"})
    (item,) = await claim(here.queue, spare())
    await here.queue.settle(item, Released())
    await here.queue.note_unfit(item, "spare")
    assert names(await claim(here.queue, spare())) == ["j1"]


@pytest.mark.parametrize("charged", ["yes", "maybe"])
async def test_an_item_whose_call_may_be_paid_does_not_go_over(here: Installation, charged: str) -> None:
    await here.submit({"id": "j1", "prompt": "x"})
    (item,) = await claim(here.queue, own())
    await here.queue.settle(item, Throttled(UNSENT, 0.0), charged)
    assert await claim(here.queue, spare()) == []
    assert await aside(here) == ["j1"]


async def test_a_task_is_never_bought_at_a_spare(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x"})
    (item,) = await claim(here.queue, own())
    await here.queue.note_intent(item)
    await here.queue.note_receipt(item, TASK)
    await here.queue.settle(item, Throttled({**UNSENT, "resumable": True}, 0.0), "yes")
    assert await claim(here.queue, spare()) == []
    await here.queue.take_back([("default", "default")])
    (item,) = await claim(here.queue, own())
    assert item.receipt == TASK


async def test_a_task_of_a_spare_waits_for_the_spare_alone(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x"})
    (item,) = await claim(here.queue, spare())
    await here.queue.note_intent(item)
    await here.queue.note_receipt(item, SPARES_TASK)
    await here.queue.settle(item, Throttled({**UNSENT, "resumable": True}, 0.0), "yes")
    assert await claim(here.queue, own(down=["spare"])) == []
    assert await aside(here, "spare") == ["j1"]
    await here.queue.take_back([("default", "spare")])
    (item,) = await claim(here.queue, own())
    assert item.receipt == SPARES_TASK
    assert (await here.record(item.uid))["via"] == "spare", "the account that polls"


async def test_an_account_that_serves_takes_what_waits_aside_for_it(here: Installation) -> None:
    await here.submit({"id": "stays", "prompt": "x", "fallback": False})
    assert await claim(here.queue, spare()) == []
    assert await claim(here.queue, own(down=["default"])) == []
    assert names(await claim(here.queue, own())) == ["stays"], "another replica may believe that it is down"
    assert await depth(here, "queued") == 0
    assert await aside(here) == []
    assert await here.queue.asides() == []


async def test_many_return_some_at_a_time(here: Installation) -> None:
    await here.submit(*({"id": f"j{k}", "prompt": "x", "fallback": False} for k in range(5)))
    assert await claim(here.queue, spare(), 5) == []
    assert await here.queue.take_back([("default", "default")], most=3) == 3
    assert await here.queue.take_back([("default", "default")], most=3) == 2
    assert sorted(names(await claim(here.queue, own(), 9))) == [f"j{k}" for k in range(5)]
    assert await here.redis.exists(here.keys.aside("default", "default"), here.keys.asides) == 0


async def test_what_ended_aside_is_not_queued_again_and_a_retry_starts_once(here: Installation) -> None:
    await here.submit(*({"id": f"j{k}", "prompt": "x", "fallback": False} for k in range(2)))
    assert await claim(here.queue, spare(), 5) == []
    for k in range(2):
        await here.submit({"job": f"j{k}"}, type="pixmill.cancel.v1")
    await here.submit({"job": "j1", "statuses": ["cancelled"]}, type="pixmill.retry.v1")
    assert await here.queue.take_back([("default", "default")]) == 1
    assert names(await claim(here.queue, own(), 5)) == ["j1"]
    assert await claim(here.queue, own(), 5) == []


async def test_a_failure_at_a_spare_is_a_dead_letter_and_is_retried_by_the_own_route(
    here: Installation,
) -> None:
    await here.submit({"id": "j1", "prompt": "x", "max_attempts": 1})
    (item,) = await claim(here.queue, spare())
    await here.queue.settle(item, Retry({**UNSENT, "kind": "provider_fault"}, 0.0), "no")
    assert [letter["reason"] for letter in await here.dead()] == ["attempts_exhausted"]
    await here.submit({"job": "j1"}, type="pixmill.retry.v1")
    assert names(await claim(here.queue, own())) == ["j1"]


async def test_counts_turns_and_caps_of_batches_stay_right(here: Installation) -> None:
    await here.batch("b1", 4, max_in_flight=2)
    await here.batch("b2", 2, defaults={"prompt": "x", "fallback": False})
    first = await claim(here.queue, spare(), 9)
    assert [item.uid.split("/")[1] for item in first] == ["b1", "b1"], "the cap holds at the spare"
    assert await aside(here) == ["i0", "i1"]
    await here.queue.take_back([("default", "default")])
    second = await claim(here.queue, own(), 9)
    assert [item.uid.split("/")[1] for item in second] == ["b2", "b2"]
    for item in (*first, *second):
        await here.queue.settle(item, Succeeded({"images": [], "attempts": 1}), "yes")
    for item in await claim(here.queue, own(), 9):
        await here.queue.settle(item, Failed(UNSENT), "no")
    one, two = await here.group("default/b1"), await here.group("default/b2")
    assert (one["state"], one["succeeded"], one["failed"], one["in_ring"]) == (
        "completed_with_errors",
        "2",
        "2",
        "0",
    )
    assert (two["state"], two["succeeded"]) == ("completed", "2")


async def test_a_lost_reply_releases_no_claim_of_another_account(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x"}, {"id": "j2", "prompt": "x"})
    await claim(here.queue, own())
    await claim(here.queue, spare())
    assert await here.queue.unclaim("default", [], "spare") == 1
    assert names(await claim(here.queue, own())) == ["j2"]


async def test_a_killed_worker_at_a_spare_loses_nothing(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x"}, {"id": "j2", "prompt": "x", "fallback": False})
    await claim(here.queue, spare(), 2)
    page = await here.other("w2").reclaim("default", "normal", lease_s=0, cursor="0-0")
    assert [(item.uid, item.via) for item in page.items] == [("default//j1", "spare")]
    assert await here.other("w2").take_back([("default", "default")]) == 1


async def test_identical_items_get_no_copy_of_another_model(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x", "cache": "use"})
    (item,) = await claim(here.queue, spare(differs=True))
    await here.submit({"id": "j2", "prompt": "x", "cache": "use"})
    await here.queue.settle(item, Succeeded({"images": [], "attempts": 1}), "yes")
    assert (await here.record("default//j2"))["place"] == "queue"
    assert not [key async for key in here.redis.scan_iter("pixmill:picture:*")]


async def test_identical_items_that_a_spare_cannot_make_are_bought_once(here: Installation) -> None:
    identical = {"prompt": "x", "cache": "use"}
    await here.submit({"id": "j1", **identical}, {"id": "j2", **identical})
    for item in await claim(here.queue, spare(), 2):
        await here.queue.note_unfit(item, "spare")
        await here.queue.settle(item, Released())
    assert await claim(here.queue, spare(), 2) == []
    assert await aside(here) == ["j1", "j2"]
    await here.queue.take_back([("default", "default")])
    (item,) = await claim(here.queue, own(), 2)
    places = [(await here.record(f"default//{name}"))["place"] for name in ("j1", "j2")]
    assert sorted(places) == ["joined", "queue"]
    await here.queue.settle(item, Succeeded({"images": [], "attempts": 1}), "yes")
    assert [key async for key in here.redis.scan_iter("pixmill:picture:*")]


async def test_identical_items_share_the_picture_of_an_equal_account(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x", "cache": "use"})
    (item,) = await claim(here.queue, spare(differs=False))
    await here.submit({"id": "j2", "prompt": "x", "cache": "use"})
    assert (await here.record("default//j2"))["place"] == "joined"
    await here.queue.settle(item, Succeeded({"images": [], "attempts": 1}), "yes")
    assert [key async for key in here.redis.scan_iter("pixmill:picture:*")]


async def test_a_foreign_key_in_place_of_the_list_changes_nothing(here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x", "fallback": False})
    await here.redis.set(here.keys.aside("default", "default"), "somebody's")
    before = await here.record("default//j1")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await claim(here.queue, spare())
    with pytest.raises(Exception, match="WRONGTYPE"):
        await here.queue.take_back([("default", "default")])
    assert await here.record("default//j1") == before
    assert orjson.loads(before["spec"])["fallback"] is False
