"""What a receipt is worth: once a task id is written down nothing is bought again, and each call is counted once."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from daemon.leases import Reclaimer
from daemon.outcomes import Failed, Outcome, Retry, Succeeded, Unknown
from daemon.queue import Claimed
from daemon.records import ItemView, Records
from daemon.running import Run, Running
from limiter import Limiter
from providers.base import Submitted
from tests.daemon.harness import Installation

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


async def test_a_retry_of_what_went_wrong_on_our_side_keeps_the_task_and_another_one_does_not(
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


async def test_after_a_bug_that_came_behind_the_receipt_the_task_is_polled(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(run: Run) -> Outcome:
        run.sent, run.submitted = True, Submitted("task-1")
        await installation.queue.note_intent(run.item)
        await installation.queue.note_receipt(run.item, RECEIPT)
        raise RuntimeError("a bug")

    monkeypatch.setattr("daemon.running.BUG_DELAY_S", 0.0)
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    running = _running(installation, bug)
    running.start(item, installation.routes["default"], None)
    await running.drain(5)
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
    await installation.queue.retry("item", "default//a", ("failed",))
    (again,) = await installation.claim()
    assert again.receipt == RECEIPT


async def test_a_poisoned_item_without_a_task_may_have_been_paid_for(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.note_intent(item)
    await _reclaimer(installation).sweep()
    assert (await calls(installation), _counted(installation)) == ({"maybe": 1}, {"maybe": 1})


async def test_a_poisoned_item_that_nobody_began_has_no_call(installation: Installation) -> None:
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
    ],
)
async def test_a_run_counts_its_call_when_it_ends_and_only_if_it_made_one(
    installation: Installation, outcome: Outcome, sent: bool, counted: dict[str, int]
) -> None:
    async def ends(run: Run) -> Outcome:
        run.sent = sent
        return outcome

    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    running = _running(installation, ends)
    running.start(item, installation.routes["default"], None)
    await running.drain(5)
    assert (await calls(installation), _counted(installation)) == (counted, counted)


async def test_a_settle_whose_reply_was_lost_counts_its_call_once(installation: Installation) -> None:
    item = await accepted(installation)
    for _ in range(2):
        assert await installation.queue.settle(item, Succeeded({"images": []}), "yes") == "succeeded"
    assert await calls(installation) == {"yes": 1}


async def test_who_settles_too_late_counts_no_call_since_another_one_did(installation: Installation) -> None:
    item = await accepted(installation)

    async def late(run: Run) -> Outcome:
        run.sent = True
        return Succeeded({"images": []})

    page = await installation.other("w2").reclaim("default", "normal", lease_s=0, cursor="0-0")
    await installation.other("w2").settle(page.items[0], Succeeded({"images": []}), "yes")
    running = _running(installation, late)
    running.start(item, installation.routes["default"], None)
    await running.drain(5)
    assert (await calls(installation), _counted(installation)) == ({"yes": 1}, {})


def _running(installation: Installation, execute: object) -> Running:
    return Running(
        installation.queue,
        Limiter(installation.redis, "pixmill"),
        installation.metrics,
        execute,  # type: ignore[arg-type]  # a function of the test
        slots=4,
        on_free=lambda: None,
    )


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
