"""A written receipt prevents a second purchase, and each call is counted once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.maintenance.reclaimer import Reclaimer
from daemon.queue.dead_letters import DeadLetters
from daemon.queue.messages import Claimed, Noted
from daemon.queue.outcomes import (
    Cancelled,
    Failed,
    Held,
    Outcome,
    Released,
    Retry,
    Succeeded,
    Throttled,
    Unknown,
)
from daemon.worker.pool import Pool
from daemon.worker.run import Phase, Run
from pixmill.records.records import ItemView, Records
from providers.base import Submitted
from tests.daemon.harness import Bench, Installation

RECEIPT = b'{"task_id":"task-1"}'
OURS = {"kind": "unknown", "message": "A bug.", "charged": "yes"}


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


async def accepted(installation: Installation) -> Claimed:
    """An item whose task the provider has."""
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.note_intent(item)
    await installation.queue.note_receipt(item, RECEIPT)
    return item


async def calls(installation: Installation) -> dict[str, int]:
    view = await Records(installation.redis, installation.keys).item("default//a")
    assert isinstance(view, ItemView)
    return {charged: count for charged, count in view.as_dict()["calls"].items() if count}


async def test_a_task_that_its_provider_took_back_is_not_polled_by_a_retry(
    installation: Installation,
) -> None:
    item = await accepted(installation)
    await installation.queue.settle(item, Retry({**OURS, "resumable": True}, 0), "yes")
    (again,) = await installation.claim()
    assert again.receipt == RECEIPT
    await installation.queue.settle(again, Cancelled(), "no")
    await installation.orders.retry("item", again.uid, ["cancelled"])
    (anew,) = await installation.claim()
    assert not anew.receipt


async def test_a_retry_polls_the_task_of_an_item_cancelled_while_it_waited(
    installation: Installation,
) -> None:
    item = await accepted(installation)
    await installation.queue.settle(item, Released())
    await installation.orders.cancel("item", item.uid, ["queued"])
    await installation.orders.retry("item", item.uid, ["cancelled"])
    (again,) = await installation.claim()
    assert again.receipt == RECEIPT


async def test_a_held_task_that_is_lost_is_forgotten_by_a_cancel(installation: Installation) -> None:
    item = await accepted(installation)
    await installation.queue.settle(item, Held({**OURS, "kind": "task_lost"}), "maybe")
    await installation.orders.cancel("item", item.uid, ["held"])
    await installation.orders.retry("item", item.uid, ["cancelled"])
    (anew,) = await installation.claim()
    assert not anew.receipt


async def test_only_a_failure_of_our_own_side_keeps_the_task_for_the_next_run(
    installation: Installation,
) -> None:
    item = await accepted(installation)
    await installation.queue.settle(item, Retry({**OURS, "resumable": True}, 0), "yes")
    (again,) = await installation.claim()
    assert again.receipt == RECEIPT
    await installation.queue.settle(again, Retry(OURS, 0))
    (anew,) = await installation.claim()
    assert anew.receipt == b""
    assert await calls(installation) == {"yes": 1}


async def test_after_a_bug_that_follows_the_receipt_the_task_is_polled(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(run: Run) -> Outcome:
        run.enter(Phase.CALLING)
        run.submitted = Submitted("task-1")
        await installation.queue.note_intent(run.item)
        await installation.queue.note_receipt(run.item, RECEIPT)
        raise RuntimeError("a bug")

    monkeypatch.setattr("daemon.worker.pool.BUG_DELAY_S", 0.0)
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    running = _running(installation, bug)
    running.start(item, installation.routes["default"], None)
    await running.drain(5, lambda: False)
    (again,) = await installation.claim()
    assert again.receipt == RECEIPT
    assert await calls(installation) == {"yes": 1}


async def test_a_poisoned_item_with_a_task_is_polled_when_a_person_retries_it(
    installation: Installation,
) -> None:
    await accepted(installation)
    reclaimer = _reclaimer(installation)
    assert await reclaimer.sweep() == 0
    assert (await installation.record("default//a"))["state"] == "failed"
    assert await calls(installation) == {"yes": 1}
    assert _counted(installation) == {"yes": 1}
    await installation.orders.retry("item", "default//a", ("failed",))
    (again,) = await installation.claim()
    assert again.receipt == RECEIPT


async def test_a_poisoned_item_without_a_task_may_have_been_paid_for(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.note_intent(item)
    await _reclaimer(installation).sweep()
    assert (await calls(installation), _counted(installation)) == ({"maybe": 1}, {"maybe": 1})


async def test_a_poisoned_item_that_never_began_has_no_call(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    await installation.claim()
    await _reclaimer(installation).sweep()
    assert (await calls(installation), _counted(installation)) == ({}, {})


@pytest.mark.parametrize(
    ("outcome", "sent", "counted"),
    [
        (Succeeded({"images": []}), True, {"yes": 1}),
        (Succeeded({"images": []}), False, {}),  # a picture of an earlier run, whose call was counted then
        (Failed({"kind": "moderation_input", "message": "No.", "charged": "no"}), True, {"no": 1}),
        (Failed({"kind": "invalid_request", "message": "No.", "charged": "no"}), False, {}),
        (Unknown({"kind": "ambiguous_submit", "message": "Lost.", "charged": "maybe"}), True, {"maybe": 1}),
        (Cancelled(), True, {"no": 1}),  # a task which the provider promised not to run
        (Cancelled(), False, {}),
    ],
)
async def test_a_run_counts_its_call_when_it_ends_and_only_if_it_made_one(
    installation: Installation, outcome: Outcome, sent: bool, counted: dict[str, int]
) -> None:
    async def ends(run: Run) -> Outcome:
        if sent:
            run.enter(Phase.CALLING)
        return outcome

    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    running = _running(installation, ends)
    running.start(item, installation.routes["default"], None)
    await running.drain(5, lambda: False)
    assert (await calls(installation), _counted(installation)) == (counted, counted)


async def test_a_settle_whose_reply_was_lost_counts_its_call_once(installation: Installation) -> None:
    item = await accepted(installation)
    for _ in range(2):
        assert await installation.queue.settle(item, Succeeded({"images": []}), "yes") == "succeeded"
    assert await calls(installation) == {"yes": 1}


async def test_a_late_settle_counts_no_call(installation: Installation) -> None:
    item = await accepted(installation)

    async def late(run: Run) -> Outcome:
        run.enter(Phase.CALLING)
        return Succeeded({"images": []})

    page = await installation.other("w2").reclaim("default", "normal", lease_s=0, cursor="0-0")
    await installation.other("w2").settle(page.items[0], Succeeded({"images": []}), "yes")
    running = _running(installation, late)
    running.start(item, installation.routes["default"], None)
    await running.drain(5, lambda: False)
    assert (await calls(installation), _counted(installation)) == ({"yes": 1}, {})


# A worker that was stopped, or cut off, for longer than its lease comes back with the receipt of a paid task.

LATE, SECOND = b'{"task_id":"late"}', b'{"task_id":"second"}'


class Zombie:
    """A worker (w1) that noted its intent, sent its call, and lost the item to w2; `wakes` when its answer comes."""

    def __init__(self, installation: Installation, item: Claimed) -> None:
        self.installation = installation
        self.item = item
        self.new = installation.other("w2")

    @classmethod
    async def asleep(cls, installation: Installation, **job: Any) -> Zombie:
        await installation.submit({"id": "a", "prompt": "x", **job})
        (item,) = await installation.claim()
        await installation.queue.note_intent(item)
        return cls(installation, item)

    async def wakes(self) -> Noted:
        return await self.installation.queue.note_receipt(self.item, LATE)

    async def reclaimed(self) -> Claimed:
        (item,) = (await self.new.reclaim("default", "normal", lease_s=0, cursor="0-0")).items
        return item

    async def claimed(self) -> Claimed:
        (item,) = (await self.new.claim("default", 1)).items
        return item

    async def sent_once_more(self) -> Claimed:
        """The item as w2 has it again after its outcome was unknown."""
        assert await self.new.settle(await self.reclaimed(), Unknown(OURS), "maybe") == "retry_wait"
        return await self.claimed()

    async def letters(self) -> list[dict[str, str]]:
        return await self.installation.dead()

    async def tasks_published(self) -> list[str]:
        return [data["task_id"] for kind, data in await self.installation.events() if kind == "job.submitted"]


@pytest.mark.parametrize("policy", ["retry_once", "hold", "fail"])
async def test_a_late_receipt_before_the_owner_settles_leaves_nothing_unknown(
    installation: Installation, policy: str
) -> None:
    zombie = await Zombie.asleep(installation, on_unknown_outcome=policy)
    item = await zombie.reclaimed()
    assert item.receipt == b""
    assert await zombie.wakes() == "kept"
    assert await zombie.new.settle(item, Unknown(OURS), "maybe") == "queued"
    assert (await zombie.claimed()).receipt == LATE
    assert await zombie.tasks_published() == ["late"]
    assert await zombie.letters() == []


async def test_a_late_receipt_while_the_item_waits_is_polled_instead_of_a_call(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation)
    await zombie.new.settle(await zombie.reclaimed(), Unknown(OURS), "maybe")
    assert await zombie.wakes() == "kept"
    assert (await zombie.claimed()).receipt == LATE
    assert await calls(installation) == {"maybe": 1}, "counted by the owner that took the item over"


async def test_a_late_receipt_of_a_held_item_is_polled_by_a_retry(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation, on_unknown_outcome="hold")
    assert await zombie.new.settle(await zombie.reclaimed(), Unknown(OURS), "maybe") == "held"
    assert await zombie.wakes() == "kept"
    view = await Records(installation.redis, installation.keys).item("default//a")
    assert view is not None
    assert view.provider_task == {"task_id": "late"}
    await installation.orders.retry("item", "default//a", ("held",))
    assert (await zombie.claimed()).receipt == LATE


async def test_an_owner_that_has_not_begun_gets_the_receipt_instead_of_its_call(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation)
    item = await zombie.sent_once_more()
    assert item.receipt == b""
    assert await zombie.wakes() == "kept"
    assert await zombie.new.note_intent(item) == LATE
    assert await zombie.new.note_intent(item) == LATE, "repeated, since the reply was lost"
    assert (await installation.record("default//a"))["intent_us"] == ""


async def test_the_next_owner_of_a_new_owner_that_died_is_given_the_receipt(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation)
    await zombie.sent_once_more()
    await zombie.wakes()
    assert (await zombie.reclaimed()).receipt == LATE


async def test_a_late_receipt_of_a_poisoned_item_is_polled_by_a_retry(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation)
    await zombie.sent_once_more()
    await zombie.wakes()
    await _reclaimer(installation).sweep()
    assert (await installation.record("default//a"))["state"] == "failed"
    await installation.orders.retry("item", "default//a", ("failed",))
    assert (await zombie.claimed()).receipt == LATE


@pytest.mark.parametrize(
    "outcome", [Retry(OURS, 0), Unknown(OURS), Failed(OURS), Throttled(OURS, 0)], ids=lambda o: o.name
)
async def test_a_new_owner_whose_call_failed_falls_back_on_the_receipt(
    installation: Installation, outcome: Outcome
) -> None:
    zombie = await Zombie.asleep(installation, max_attempts=1)
    item = await zombie.sent_once_more()
    await zombie.new.note_intent(item)
    assert await zombie.wakes() == "kept"
    await zombie.new.settle(item, outcome, "maybe")
    assert (await installation.events())[-1][0] == "job.retrying", "the error is published"
    error = orjson.loads((await installation.record("default//a"))["error"])
    polled = {} if isinstance(outcome, Throttled) else {"resumable": True}
    assert error == {**OURS, **polled}
    assert (await zombie.claimed()).receipt == LATE


async def test_a_second_task_is_followed_and_the_late_one_buried(installation: Installation) -> None:
    zombie = await Zombie.asleep(installation)
    item = await zombie.sent_once_more()
    await zombie.new.note_intent(item)
    assert await zombie.wakes() == "kept"
    assert await zombie.new.note_receipt(item, SECOND) == "second"
    assert await zombie.new.note_receipt(item, SECOND) == "ours", "repeated, since the reply was lost"
    assert (await installation.record("default//a"))["receipt"] == SECOND.decode()
    (letter,) = await zombie.letters()
    assert letter["reason"] == "late_receipt"
    assert orjson.loads(letter["error"])["receipt"] == {"task_id": "late"}
    assert await zombie.new.settle(item, Succeeded({"images": []}), "yes") == "succeeded"


async def test_a_late_receipt_after_the_owners_own_is_buried_and_kept_in_reserve(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation)
    item = await zombie.sent_once_more()
    await zombie.new.note_intent(item)
    await zombie.new.note_receipt(item, SECOND)
    assert await zombie.wakes() == "buried"
    assert len(await zombie.letters()) == 1
    resumable = Retry({**OURS, "resumable": True}, 0)
    await zombie.new.settle(item, resumable, "yes")
    again = await zombie.claimed()
    assert again.receipt == SECOND, "the task that is followed is still good"
    await zombie.new.settle(again, Unknown(OURS))
    assert (await zombie.claimed()).receipt == LATE, "and when it is lost the other one is polled, not bought"


async def test_a_late_receipt_of_a_failed_item_is_buried_and_polled_by_a_retry(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation, on_unknown_outcome="fail")
    assert await zombie.new.settle(await zombie.reclaimed(), Unknown(OURS), "maybe") == "failed"
    for noted in ("buried", "kept"):  # the second time its reply was lost
        assert await zombie.wakes() == noted
    assert (await installation.record("default//a"))["state"] == "failed", "a final state is final"
    letters = DeadLetters(installation.redis, installation.keys)
    (letter,) = await letters.newest(10, reason="late_receipt")
    assert "Retrying the item polls this task" in letter.sentence
    assert await letters.retry(letter) == "requeued"
    assert (await zombie.claimed()).receipt == LATE


async def test_a_late_receipt_of_an_item_with_its_picture_is_buried(installation: Installation) -> None:
    zombie = await Zombie.asleep(installation)
    item = await zombie.sent_once_more()
    await zombie.new.note_intent(item)
    await zombie.new.settle(item, Succeeded({"images": []}), "yes")
    assert await zombie.wakes() == "buried"
    (letter,) = await zombie.letters()
    assert "may have been paid for" in orjson.loads(letter["error"])["message"]
    assert await zombie.tasks_published() == []


async def test_a_late_receipt_without_a_record_is_buried_and_makes_no_record(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation)
    await installation.redis.delete(installation.keys.item("default//a"))
    assert await zombie.wakes() == "buried"
    assert not await installation.redis.exists(installation.keys.item("default//a"))
    (letter,) = await DeadLetters(installation.redis, installation.keys).newest(10)
    assert (letter.tenant, letter.item, letter.batch) == ("default", "a", None)


async def test_a_repeated_receipt_is_nothing_new_to_the_next_owner(
    installation: Installation,
) -> None:
    zombie = await Zombie.asleep(installation)
    await zombie.wakes()
    item = await zombie.reclaimed()
    assert item.receipt == LATE
    assert await zombie.wakes() == "kept"
    await zombie.new.settle(item, Succeeded({"images": []}), "yes")
    assert await zombie.wakes() == "kept"
    assert await zombie.letters() == []
    assert await zombie.tasks_published() == ["late"]


@pytest.mark.parametrize("by_claim", [True, False])
async def test_an_item_with_a_task_has_started_and_does_not_expire(
    installation: Installation, by_claim: bool
) -> None:
    zombie = await Zombie.asleep(installation, deadline="2999-01-01T00:00:00Z")
    await zombie.new.settle(await zombie.reclaimed(), Unknown(OURS), "maybe")
    await zombie.wakes()
    await installation.redis.hset(installation.keys.item("default//a"), "expires_us", "1")
    if not by_claim:
        await installation.redis.zadd(installation.keys.expiring, {"default//a": 1})
        await installation.queue.due()
    assert (await zombie.claimed()).receipt == LATE


STEPS = ("reclaim", "unknown", "claim", "intent", "receipt", "end")
ENDS = (
    Succeeded({"images": []}),
    Failed(OURS),
    Retry(OURS, 0),
    Retry({**OURS, "resumable": True}, 0),
    Unknown(OURS),
    Released(),
)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
@pytest.mark.parametrize(
    "wakes_at", range(len(STEPS) + 1), ids=lambda at: f"before-{[*STEPS, 'nothing'][at]}"
)
async def test_a_late_receipt_at_any_step_is_kept_and_stops_a_call_not_begun(
    installation: Installation, wakes_at: int, end: Outcome
) -> None:
    zombie = await Zombie.asleep(installation)
    item = zombie.item
    begun = None
    for at, step in enumerate(STEPS):
        if at == wakes_at:
            await zombie.wakes()
        match step:
            case "reclaim":
                item = await zombie.reclaimed()
            case "unknown" if not item.receipt:
                await zombie.new.settle(item, Unknown(OURS), "maybe")
            case "claim" if not item.receipt:
                item = await zombie.claimed()
            case "intent" if not item.receipt:
                begun = not await zombie.new.note_intent(item)
            case "receipt" if begun:
                await zombie.new.note_receipt(item, SECOND)
            case "end":
                await zombie.new.settle(item, end, "maybe")
    if wakes_at == len(STEPS):
        await zombie.wakes()
    if wakes_at <= STEPS.index("intent"):
        assert not begun, "nothing is bought a second time"
    record = await installation.record("default//a")
    noted = [record.get("receipt"), record.get("late_receipt")]
    buried = [letter["error"] for letter in await zombie.letters() if letter["reason"] == "late_receipt"]
    followed = not begun and isinstance(end, Retry | Unknown | Failed) and "resumable" not in end.error
    assert followed or LATE.decode() in noted or any('"late"' in error for error in buried)


def _running(installation: Installation, execute: Any) -> Pool:
    return Bench(installation.queue, installation.metrics, execute).pool


def _reclaimer(installation: Installation) -> Reclaimer:
    async def never(run: Run) -> Outcome:
        raise AssertionError("a poisoned item is not run")

    running = _running(installation, never)
    return Reclaimer(
        installation.queue, installation.routes, running, installation.metrics, lease_s=0, most_crashes=0
    )


def _counted(installation: Installation) -> dict[str, int]:
    families = installation.metrics.provider_calls.collect()
    totals = [s for family in families for s in family.samples if s.name.endswith("_total")]
    return {sample.labels["charged"]: int(sample.value) for sample in totals if sample.value}
