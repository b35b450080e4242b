"""Claim, note, settle, renew, reclaim, due, cancel and retry happen once, and only for the owner of the item."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.queue import steps
from daemon.queue.messages import Claimed, LeaseLost, PartEnd, Target
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
from limiter.script import LuaScript
from pixmill.records.keys import Keys
from tests.daemon.harness import COUNTS, Installation

ERROR = {"kind": "provider_fault", "message": "The provider failed.", "charged": "maybe", "retryable": True}
DONE = Succeeded({"images": [{"key": "k"}], "attempts": 1})


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


async def counts(installation: Installation, gid: str) -> dict[str, int]:
    """A batch's counts without those that are 0; they sum to its total."""
    group = await installation.group(gid)
    names = (
        "queued",
        "throttled",
        "retry_wait",
        "running",
        "succeeded",
        "failed",
        "cancelled",
        "expired",
        "held",
    )
    found = {name: int(group[name]) for name in names}
    assert sum(found.values()) == int(group["total"])
    return {name: count for name, count in found.items() if count}


async def test_a_success_is_record_counts_events_and_acknowledgement_at_once(
    installation: Installation,
) -> None:
    await installation.batch("b1", 2)
    first, second = await installation.claim(2)
    assert await counts(installation, "default/b1") == {"running": 2}
    assert await installation.queue.settle(first, DONE) == "succeeded"
    assert await counts(installation, "default/b1") == {"running": 1, "succeeded": 1}
    assert (await installation.group("default/b1"))["state"] == "running"
    assert await installation.queue.settle(second, DONE) == "succeeded"

    assert (await installation.group("default/b1"))["state"] == "completed"
    assert await installation.redis.xlen(installation.keys.stream("default", "normal")) == 0
    kinds = [kind for kind, _ in await installation.events("pixmill:events:b1")]
    assert kinds == [
        *("batch.accepted", "job.queued", "job.queued", "job.started", "job.started"),
        *("job.succeeded", "job.succeeded", "batch.finished"),
    ]


async def test_a_batch_with_failures_says_so(installation: Installation) -> None:
    await installation.batch("b1", 2)
    first, second = await installation.claim(2)
    await installation.queue.settle(first, Failed(ERROR))
    await installation.queue.settle(second, DONE)
    _, finished = (await installation.events("pixmill:events:b1"))[-1]
    assert finished["state"] == "completed_with_errors"
    assert (finished["counts"]["failed"], finished["counts"]["succeeded"]) == (1, 1)


async def test_an_item_is_settled_once_by_the_first_of_several_calls(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    assert await installation.queue.settle(item, DONE) == "succeeded"
    assert await installation.queue.settle(item, Failed(ERROR)) == "lost"
    assert (await installation.record("default//a"))["state"] == "succeeded"
    assert (await installation.kinds()).count("job.failed") == 0


OUTCOMES: list[tuple[Outcome, str]] = [
    (DONE, "succeeded"),
    (Failed(ERROR), "failed"),
    (Retry(ERROR, 0), "retry_wait"),
    (Throttled(ERROR, 60), "throttled"),
    (Unknown(ERROR), "retry_wait"),
    (Held(ERROR), "held"),
    (Cancelled(), "cancelled"),
    (Released(), "queued"),
]


@pytest.mark.parametrize(("outcome", "state"), OUTCOMES, ids=[outcome.name for outcome, _ in OUTCOMES])
async def test_a_repeated_settle_has_the_same_answer_and_changes_nothing(
    installation: Installation, outcome: Outcome, state: str
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    assert await installation.queue.settle(item, outcome) == state
    record, kinds = await installation.record("default//a"), await installation.kinds()
    assert await installation.queue.settle(item, outcome) == state
    assert (await installation.record("default//a"), await installation.kinds()) == (record, kinds)


@pytest.mark.parametrize("outcome", [Retry(ERROR, 0), Throttled(ERROR, 60), Unknown(ERROR)])
async def test_the_event_of_a_retry_names_the_state_in_which_the_item_waits(
    installation: Installation, outcome: Outcome
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    state = await installation.queue.settle(item, outcome)
    kind, data = (await installation.events())[-1]
    assert (kind, data["state"]) == ("job.retrying", state)


async def test_a_repeated_settle_of_an_earlier_run_has_its_answer_and_not_the_item(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.settle(item, Released())
    (again,) = await installation.claim()
    assert await installation.queue.settle(item, Released()) == "queued"
    assert await installation.queue.settle(item, DONE) == "lost"
    assert await installation.queue.settle(again, DONE) == "succeeded"


async def test_a_repeated_settle_of_a_cancelled_run_is_still_cancelled(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.orders.cancel("item", "default//a", ["running"])
    assert await installation.queue.settle(item, Retry(ERROR, 0)) == "cancelled"
    assert await installation.queue.settle(item, Retry(ERROR, 0)) == "cancelled"


async def test_a_worker_that_lost_its_lease_can_neither_send_nor_settle_nor_renew(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (zombie,) = await installation.claim()
    other = installation.other("w2")
    page = await other.reclaim("default", "normal", lease_s=0, cursor="0-0")
    (adopted,) = page.items

    with pytest.raises(LeaseLost):
        await installation.queue.note_intent(zombie)
    assert await installation.queue.renew([zombie]) == ["lost"]
    assert await installation.queue.settle(zombie, DONE) == "lost"
    assert await other.renew([adopted]) == ["ours"]
    assert await other.settle(adopted, DONE) == "succeeded"


async def test_a_new_record_has_no_counts(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    record = await installation.redis.hgetall(installation.keys.item("default//a"))
    assert not {name.encode() for name in (*COUNTS, "expires_us")} & record.keys()


async def test_a_renewed_item_is_not_reclaimed(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await _stand_idle(installation, [item])
    await installation.queue.renew([item])
    page = await installation.other("w2").reclaim("default", "normal", lease_s=IDLE_S, cursor="0-0")
    assert page.items == []


# Redis 6.2 keeps deleted entries pending and lists them: with JUSTID by their ids, without it as nil.
AUTOCLAIM_OF_6_2 = """
local function autoclaim_of_6_2(stream, group, _, _, _, _, count, justid)
  local page = {}
  for i, row in ipairs(redis.call('XPENDING', stream, group, '-', '+', count)) do
    page[i] = justid and row[1] or redis.call('XRANGE', stream, row[1], row[1])[1] or false
  end
  return { '0-0', page }
end
"""


@pytest.mark.parametrize("server", ["as it is", "as 6.2"])
async def test_a_deleted_entry_does_not_stay_pending(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    if server == "as 6.2":
        source = steps._SCRIPTS["reclaim"].source
        assert "unless(ABSENT, 'XAUTOCLAIM', " in source
        source = AUTOCLAIM_OF_6_2 + source.replace("unless(ABSENT, 'XAUTOCLAIM', ", "autoclaim_of_6_2(")
        monkeypatch.setitem(steps._SCRIPTS, "reclaim", LuaScript("reclaim", source))
    await installation.batch("b1", 3)
    first, deleted, last = await installation.claim(3)
    stream = installation.keys.stream("default", "normal")
    await installation.redis.xdel(stream, deleted.entry)
    page = await installation.other("w2").reclaim("default", "normal", lease_s=0, cursor="0-0")
    assert [item.uid for item in page.items] == [first.uid, last.uid]
    pending = await installation.redis.xpending_range(stream, "workers", "-", "+", 10)
    assert [row["message_id"].decode() for row in pending] == [first.entry, last.entry]


IDLE_S = 3600


async def _stand_idle(installation: Installation, items: Sequence[Claimed]) -> None:
    """Let the entries of running items look as if nobody had renewed them for an hour."""
    stream, idle_ms = installation.keys.stream("default", "normal"), IDLE_S * 1000
    entries = [item.entry for item in items]
    await installation.redis.xclaim(stream, "workers", "w1", 0, entries, idle=idle_ms, justid=True)


async def test_an_orphan_is_found_behind_hundreds_of_live_entries(installation: Installation) -> None:
    await installation.batch("b1", 250)
    items = await installation.claim(250)
    orphan = items[-1]
    await _stand_idle(installation, items)
    await installation.queue.renew(items[:-1])
    cursor, found = "0-0", []
    for _ in range(60):
        page = await installation.other("w2").reclaim(
            "default", "normal", lease_s=IDLE_S, cursor=cursor, count=1
        )
        cursor = page.cursor
        found += [item.uid for item in page.items]
        await installation.queue.renew(items[:-1])
        if found:
            break
    assert found == [orphan.uid]


async def test_an_item_whose_worker_dies_again_and_again_is_given_up_as_poison(
    installation: Installation,
) -> None:
    await installation.batch("b1", 1)
    await installation.claim()
    poisoned = 0
    for _ in range(10):
        page = await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0", most_crashes=3)
        poisoned += page.poisoned
    assert poisoned == 1
    assert [letter["reason"] for letter in await installation.dead()] == ["poison"]
    assert (await installation.group("default/b1"))["state"] == "failed"
    assert await counts(installation, "default/b1") == {"failed": 1}


async def test_throttles_and_retries_are_no_crashes(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x", "max_attempts": 20})
    for number in range(12):
        (item,) = await installation.claim()
        await installation.queue.settle(item, Throttled(ERROR, 0) if number % 2 else Retry(ERROR, 0))
    await installation.claim()
    page = await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0", most_crashes=1)
    assert (len(page.items), page.poisoned) == (1, 0)


@pytest.mark.parametrize("field", ["epoch", "deliveries", "crashes", "queue_us", "since_us"])
async def test_a_spoilt_number_of_a_record_fails_no_page(installation: Installation, field: str) -> None:
    for name in "abc":
        await installation.submit({"id": name, "prompt": "x"})
    await installation.redis.hset(installation.keys.item("default//b"), field, "spoilt")
    assert len(await installation.claim(3)) == 3
    await installation.redis.hset(installation.keys.item("default//b"), field, "spoilt")
    page = await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0")
    assert {"default//a", "default//c"} <= {item.uid for item in page.items}


async def test_an_unreadable_record_hides_no_other_item_and_ends_as_poison(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        await installation.submit({"id": name, "prompt": "x"})
    await installation.redis.hset(installation.keys.item("default//b"), "accepted_us", "a private word")
    claimed = await installation.claim(3)
    assert [item.uid for item in claimed] == ["default//a", "default//c"]
    for item in claimed:
        await installation.queue.settle(item, DONE)

    for poisoned in (0, 0, 1):
        page = await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0", most_crashes=2)
        assert (page.items, page.poisoned) == ([], poisoned)
    assert (await installation.record("default//b"))["state"] == "failed"
    assert [letter["reason"] for letter in await installation.dead()] == ["poison"]
    logged = capsys.readouterr().out
    assert "default//b" in logged
    assert "accepted_us" in logged
    assert "private" not in logged


async def test_an_item_whose_worker_dies_before_every_call_is_poison(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    rounds = 0
    while await installation.claim():
        page = await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0", most_crashes=3)
        for item in page.items:
            await installation.queue.settle(item, Released())
        rounds += 1
        assert rounds < 10
    assert rounds == 4
    assert (await installation.record("default//a"))["state"] == "failed"


async def test_a_reclaim_that_was_held_up_on_its_way_takes_nothing_over(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    await installation.claim()
    past = await installation.queue.now_us() - 1
    page = await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0", not_after_us=past)
    assert page.items == []


async def test_an_item_whose_consumer_group_was_lost_is_kept_and_found(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x", "tenant": "bert"})
    first, second = await installation.claim(2)
    await installation.submit({"id": "c", "prompt": "x"})
    await installation.redis.xgroup_destroy(installation.keys.stream("default", "normal"), "workers")
    assert await installation.queue.renew([first]) == ["ours"]
    assert [item.uid for item in await installation.claim(5)] == ["default//c"], "nothing runs twice"
    page = await installation.other("w2").reclaim("default", "normal", lease_s=0, cursor="0-0")
    assert {item.uid for item in page.items} == {first.uid, second.uid, "default//c"}


async def test_a_running_item_whose_entry_was_trimmed_is_kept_and_found(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    stream = installation.keys.stream("default", "normal")
    await installation.redis.xtrim(stream, maxlen=0, approximate=False)
    assert await installation.queue.renew([item]) == await installation.queue.renew([item]) == ["ours"]
    await installation.submit({"id": "c", "prompt": "x"})
    assert [item.uid for item in await installation.claim(5)] == ["default//c"], "nothing runs twice"
    other = installation.other("w2")
    page = await other.reclaim("default", "normal", lease_s=0, cursor="0-0")
    assert {item.uid for item in page.items} == {"default//a", "default//c"}
    for adopted in page.items:
        assert await other.settle(adopted, DONE) == "succeeded"
    assert await installation.redis.xlen(stream) == 0
    assert (await installation.redis.xpending(stream, "workers"))["pending"] == 0


async def test_a_batch_that_is_cancelled_while_it_is_accepted_ends_once(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"id": "b1", "parts": 2, "defaults": {"prompt": "x"}}
    await installation.submit({**part, "part": 1, "items": [{"id": "i0"}]}, type="pixmill.batch.v1")
    await installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    await installation.submit({**part, "part": 2, "items": [{"id": "i1"}]}, type="pixmill.batch.v1")
    assert (await installation.kinds()).count("batch.finished") == 1
    assert (await installation.group("default/b1"))["state"] == "cancelled"
    assert await counts(installation, "default/b1") == {"cancelled": 2}


async def test_an_interrupted_part_with_a_double_id_is_counted_right(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"id": "b1", "parts": 2, "defaults": {"prompt": "x"}}
    await installation.submit({**part, "part": 1, "items": [{"id": "i0"}]}, type="pixmill.batch.v1")
    real_accept, calls = installation.queue.accept, 0

    async def dies_after_the_first_chunk(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ConnectionError("the process dies here")
        return await real_accept(*args)

    monkeypatch.setattr(installation.queue, "accept", dies_after_the_first_chunk)
    items = [{"id": f"i{k}"} for k in range(150)]
    with pytest.raises(ConnectionError):
        await installation.submit({**part, "part": 2, "items": items}, type="pixmill.batch.v1")
    installation.intake._lease_s = 0
    await installation.intake.reclaim()
    assert await counts(installation, "default/b1") == {"queued": 150}
    assert len(await installation.claim(400)) == 150


async def test_a_retry_after_a_missed_deadline_may_run(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x", "deadline": "2020-01-01T00:00:00Z"})
    assert await installation.claim() == []
    await installation.submit({"job": "a", "statuses": ["expired"]}, type="pixmill.retry.v1")
    (item,) = await installation.claim()
    assert item.waived_us > 0


async def test_a_cancelled_retry_is_queued_once_by_the_next_retry(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.settle(item, Retry(ERROR, 60))
    await installation.submit({"job": "a"}, type="pixmill.cancel.v1")
    await installation.submit({"job": "a", "statuses": ["cancelled"]}, type="pixmill.retry.v1")
    assert await installation.redis.zcard(installation.keys.delayed) == 0
    assert len(await installation.claim(5)) == 1


async def test_an_entry_with_thousands_of_fields_leaves_its_dead_letter(installation: Installation) -> None:
    await installation.redis.xadd(installation.keys.jobs, {f"f{k}": "x" for k in range(9000)})
    await installation.take_all()
    (letter,) = await installation.dead()
    assert letter["reason"] == "malformed"
    assert await installation.redis.xlen(installation.keys.jobs) == 0


async def test_notes_come_back_with_the_orphan(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    await installation.queue.claim("default", 1, ["a permit"])
    (first,) = (await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0")).items
    assert (first.intent_us, first.receipt, first.permit) == (None, b"", "a permit")
    await installation.queue.note_intent(first)
    await installation.queue.note_receipt(first, b'{"task_id":"t-1"}')
    (second,) = (await installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0")).items
    assert second.intent_us is not None
    assert second.receipt == b'{"task_id":"t-1"}'
    assert second.deliveries == 3
    submitted = [data for kind, data in await installation.events() if kind == "job.submitted"]
    assert submitted[0]["task_id"] == "t-1"


async def test_a_retry_waits_its_time_and_costs_an_attempt(installation: Installation) -> None:
    await installation.batch("b1", 1)
    (item,) = await installation.claim()
    assert await installation.queue.settle(item, Retry(ERROR, 60)) == "retry_wait"
    assert await counts(installation, "default/b1") == {"retry_wait": 1}
    assert await installation.claim() == []
    _, next_s = await installation.queue.due()
    assert next_s is not None
    assert 0 <= next_s <= 60
    await installation.redis.zadd(installation.keys.delayed, {item.uid: 0})
    assert (await installation.queue.due())[0] == 1
    (again,) = await installation.claim()
    assert (again.attempts, again.deliveries, again.throttles) == (1, 2, 0)


async def test_the_last_attempt_ends_as_failed_and_as_one_dead_letter(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x", "max_attempts": 2})
    (item,) = await installation.claim()
    assert await installation.queue.settle(item, Retry(ERROR, 0)) == "retry_wait"
    (item,) = await installation.claim()
    assert await installation.queue.settle(item, Retry(ERROR, 0)) == "failed"
    (letter,) = await installation.dead()
    assert (letter["reason"], letter["attempts"]) == ("attempts_exhausted", "2")
    assert '"prompt":"x"' in letter["data"]


async def test_a_throttled_job_keeps_its_attempts_and_its_place(installation: Installation) -> None:
    await installation.batch("b1", 3)
    first, *_ = await installation.claim(1)
    assert await installation.queue.settle(first, Throttled(ERROR, 0)) == "throttled"
    assert await counts(installation, "default/b1") == {"queued": 2, "throttled": 1}
    order = await installation.claim(3)
    # One item of the batch stood in the ring already; the throttled one is the next.
    assert [item.uid for item in order].index(first.uid) <= 1
    again = next(item for item in order if item.uid == first.uid)
    assert (again.attempts, again.throttles) == (0, 1)
    assert again.throttled_us > 0


async def test_an_unknown_outcome_after_the_expiry_fails_and_does_not_expire(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x", "deadline": "2999-01-01T00:00:00Z"})
    (item,) = await installation.claim()
    await installation.redis.hset(installation.keys.item("default//a"), "expires_us", "1")
    assert await installation.queue.settle(item, Unknown(ERROR), "maybe") == "failed"
    (letter,) = await installation.dead()
    assert letter["reason"] == "unknown_outcome"


@pytest.mark.parametrize(
    ("policy", "state"), [("hold", "held"), ("fail", "failed"), ("retry_once", "retry_wait")]
)
async def test_the_job_decides_about_an_unknown_outcome(
    installation: Installation, policy: str, state: str
) -> None:
    await installation.submit({"id": "a", "prompt": "x", "on_unknown_outcome": policy})
    (item,) = await installation.claim()
    assert await installation.queue.settle(item, Unknown(ERROR)) == state


async def test_retry_once_means_once(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.settle(item, Unknown(ERROR))
    (item,) = await installation.claim()
    assert item.attempts == 0, "an unknown outcome is not a failed attempt"
    assert await installation.queue.settle(item, Unknown(ERROR)) == "failed"


async def test_a_released_item_is_queued_again_unharmed(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    assert await installation.queue.settle(item, Released()) == "queued"
    (again,) = await installation.claim()
    assert (again.attempts, again.throttles) == (0, 0)


async def test_a_held_item_keeps_its_batch_open_until_a_person_decides(installation: Installation) -> None:
    await installation.batch("b1", 1)
    (item,) = await installation.claim()
    assert await installation.queue.settle(item, Held(ERROR)) == "held"
    assert (await installation.group("default/b1"))["state"] == "running"
    await installation.submit({"batch": "b1", "statuses": ["held"]}, type="pixmill.retry.v1")
    (again,) = await installation.claim()
    await installation.queue.settle(again, DONE)
    assert (await installation.group("default/b1"))["state"] == "completed"


async def test_a_cancel_ends_waiting_items_and_stops_running_ones(installation: Installation) -> None:
    await installation.batch("b1", 5)
    running, *_ = await installation.claim(1)
    await installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    assert await counts(installation, "default/b1") == {"running": 1, "cancelled": 4}
    assert await installation.queue.renew([running]) == ["cancel"]
    assert await installation.queue.settle(running, Cancelled()) == "cancelled"
    assert (await installation.group("default/b1"))["state"] == "cancelled"


@pytest.mark.parametrize(
    ("outcome", "kept"),
    [
        (Retry(ERROR, 0), ERROR),
        (Throttled(ERROR, 0), ERROR),
        (Unknown(ERROR), ERROR),
        (Held(ERROR), ERROR),
        (Released(), None),
        (Cancelled(), None),
    ],
)
async def test_a_cancelled_run_neither_runs_again_nor_is_held(
    installation: Installation, outcome: Outcome, kept: object
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.submit({"job": "a"}, type="pixmill.cancel.v1")
    assert await installation.queue.settle(item, outcome) == "cancelled"
    error = (await installation.record("default//a")).get("error")
    assert (None if error is None else orjson.loads(error)) == kept


async def test_a_picture_that_came_despite_a_cancel_is_kept(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.submit({"job": "a"}, type="pixmill.cancel.v1")
    assert await installation.queue.settle(item, DONE) == "succeeded"


async def test_a_retry_of_a_finished_batch_runs_only_failed_items(installation: Installation) -> None:
    await installation.batch("b1", 4)
    for number, item in enumerate(await installation.claim(4)):
        await installation.queue.settle(item, DONE if number else Failed(ERROR))
    while await installation.queue.close_groups():
        pass
    await installation.submit({"batch": "b1"}, type="pixmill.retry.v1")
    assert await counts(installation, "default/b1") == {"queued": 1, "succeeded": 3}
    (again,) = await installation.claim(9)
    await installation.queue.settle(again, DONE)
    assert (await installation.group("default/b1"))["state"] == "completed"
    assert await installation.redis.zcard(installation.keys.active) == 0


async def test_an_item_is_not_started_after_its_expiry(installation: Installation) -> None:
    past = "2020-01-01T00:00:00Z"
    await installation.submit(
        {"id": "late", "prompt": "x", "expires_at": past}, {"id": "fresh", "prompt": "x"}
    )
    assert [item.uid for item in await installation.claim(5)] == ["default//fresh"]
    assert (await installation.record("default//late"))["state"] == "expired"


async def test_an_item_expires_even_without_claims(installation: Installation) -> None:
    await installation.batch("b1", 3, defaults={"prompt": "x", "expires_at": "2020-01-01T00:00:00Z"})
    await installation.queue.due()
    assert await counts(installation, "default/b1") == {"expired": 3}
    assert (await installation.group("default/b1"))["state"] == "expired"
    assert await installation.claim(5) == []


async def test_a_not_before_item_waits_for_its_time(installation: Installation) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    await installation.submit({"id": "later", "prompt": "x", "not_before": at})
    assert await installation.claim() == []
    _, next_s = await installation.queue.due()
    assert next_s is not None
    assert 3590 < next_s <= 3600


async def test_every_part_of_a_batch_must_have_been_read_before_it_ends(installation: Installation) -> None:
    part = {"id": "b1", "parts": 2, "defaults": {"prompt": "x"}}
    await installation.submit({**part, "part": 1, "items": [{"id": "i0"}]}, type="pixmill.batch.v1")
    (item,) = await installation.claim()
    await installation.queue.settle(item, DONE)
    assert (await installation.group("default/b1"))["state"] == "running"
    await installation.submit({**part, "part": 2, "items": [{"id": "i1"}]}, type="pixmill.batch.v1")
    (item,) = await installation.claim()
    await installation.queue.settle(item, DONE)
    group = await installation.group("default/b1")
    assert (group["state"], group["total"]) == ("completed", "2")


async def test_a_cancel_ends_a_batch_whose_other_parts_never_came(installation: Installation) -> None:
    part = {"id": "b1", "parts": 2, "part": 1, "defaults": {"prompt": "x"}, "items": [{"id": "i0"}]}
    await installation.submit(part, type="pixmill.batch.v1")
    (item,) = await installation.claim()
    await installation.queue.settle(item, DONE)
    await installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    assert (await installation.group("default/b1"))["state"] == "completed"


async def test_progress_is_published_by_one_replica_at_most_twice_a_second(
    installation: Installation,
) -> None:
    await installation.batch("b1", 2)
    await installation.claim(1)
    (counts,) = await installation.queue.progress(gap_s=30)
    assert counts.by_state()["running"] == 1
    assert sum(count for name, count in counts.by_state().items() if name != "total") == counts.total
    await installation.claim(1)
    assert await installation.other("w2").progress(gap_s=30) == []


async def test_queue_depth_and_the_oldest_waiting_item_follow_every_move(installation: Installation) -> None:
    async def depth() -> dict[bytes, int]:
        fields = await installation.redis.hgetall(installation.keys.depth)
        return {field: int(count) for field, count in fields.items() if int(count)}

    await installation.batch("b1", 3)
    assert await depth() == {b"default|normal|queued": 3}
    first, second, third = await installation.claim(3)
    assert await depth() == {b"default|normal|running": 3}
    assert await installation.redis.zcard(installation.keys.waiting("default")) == 0
    await installation.queue.settle(first, Retry(ERROR, 60))
    await installation.queue.settle(second, Held(ERROR))
    await installation.queue.settle(third, DONE)
    assert await depth() == {b"default|normal|retry_wait": 1, b"default|normal|held": 1}
    assert await installation.redis.zcard(installation.keys.waiting("default")) == 1
    await installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    assert await depth() == {}
    assert await installation.redis.zcard(installation.keys.waiting("default")) == 0


async def test_when_all_is_done_every_key_of_the_work_has_its_time_to_live(
    installation: Installation,
) -> None:
    await installation.batch("b1", 3)
    await installation.submit({"id": "single", "prompt": "x"}, {"id": "several", "prompt": "x", "n": 2})
    while items := await installation.claim(10):
        for item in items:
            await installation.queue.settle(item, DONE)
    while await installation.queue.close_groups():
        pass
    kept_for_good = {
        *("pixmill:events", "pixmill:jobs", "pixmill:index", "pixmill:depth", "pixmill:dirty"),
        "pixmill:installation",
        "pixmill:q:default:normal",
    }
    forever = [
        key.decode() for key in await installation.redis.keys("*") if await installation.redis.ttl(key) < 0
    ]
    assert set(forever) <= kept_for_good


async def ended_batch(installation: Installation, items: int) -> None:
    """The first item failed, the others succeeded, and every record has its time to live."""
    await installation.batch("b1", items)
    failing, *others = await installation.claim(items)
    await installation.queue.settle(failing, Failed(ERROR))
    for item in others:
        await installation.queue.settle(item, DONE)
    while await installation.queue.close_groups(page=2):
        pass
    assert all(ttl > 0 for ttl in await ttls(installation, items))


async def ttls(installation: Installation, items: int) -> list[int]:
    """The times to live of all members, the batch and its events, in seconds; -1 is for ever."""
    keys = installation.keys
    names = [keys.item(f"default/b1/i{number}") for number in range(items)]
    names += [keys.group("default/b1"), keys.members("default/b1"), keys.batch_events("b1")]
    return [await installation.redis.ttl(name) for name in names]


@pytest.mark.parametrize(("kind", "name"), [("group", "default/b1"), ("item", "default/b1/i0")])
async def test_members_that_had_ended_live_as_long_as_their_retried_batch(
    installation: Installation, kind: Target, name: str
) -> None:
    await ended_batch(installation, 5)
    await installation.orders.retry(kind, name, ["failed"])
    while await installation.queue.close_groups(page=2):
        pass
    assert await ttls(installation, 5) == [-1] * 8
    (item,) = await installation.claim()
    await installation.queue.settle(item, DONE)
    while await installation.queue.close_groups(page=2):
        pass
    assert len(set(await ttls(installation, 5))) == 1
    assert await installation.redis.zcard(installation.keys.closing) == 0


async def test_an_end_while_the_clock_is_stopped_starts_it_for_every_member(
    installation: Installation,
) -> None:
    await ended_batch(installation, 5)
    await installation.orders.retry("group", "default/b1", ["failed"])
    await installation.queue.close_groups(page=2)  # the first two have no clock any more
    (item,) = await installation.claim()
    await installation.queue.settle(item, DONE)
    while await installation.queue.close_groups(page=2):
        pass
    assert all(ttl > 0 for ttl in await ttls(installation, 5))


async def test_a_retry_while_the_clock_is_started_stops_it_for_every_member(
    installation: Installation,
) -> None:
    await installation.batch("b1", 5)
    failing, *others = await installation.claim(5)
    await installation.queue.settle(failing, Failed(ERROR))
    for item in others:
        await installation.queue.settle(item, DONE)
    await installation.queue.close_groups(page=2)
    await installation.orders.retry("group", "default/b1", ["failed"])
    while await installation.queue.close_groups(page=2):
        pass
    assert await ttls(installation, 5) == [-1] * 8


async def test_a_retry_that_finds_nothing_to_do_leaves_the_clock_running(installation: Installation) -> None:
    await ended_batch(installation, 3)
    await installation.orders.retry("group", "default/b1", ["cancelled"])
    assert not await installation.queue.close_groups()
    assert all(ttl > 0 for ttl in await ttls(installation, 3))


async def test_scripts_survive_a_script_flush_in_the_middle(installation: Installation) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    await installation.redis.script_flush()
    (item,) = await installation.claim()
    await installation.redis.script_flush()
    assert await installation.queue.settle(item, DONE) == "succeeded"


async def test_a_leaving_replica_removes_its_name_unless_work_is_pending(
    installation: Installation,
) -> None:
    await installation.submit({"id": "a", "prompt": "x"})
    (item,) = await installation.claim()
    stream = installation.keys.stream("default", "normal")
    await installation.queue.leave(["default"])
    assert len(await installation.redis.xinfo_consumers(stream, "workers")) == 1
    await installation.queue.settle(item, DONE)
    await installation.queue.leave(["default"])
    assert await installation.redis.xinfo_consumers(stream, "workers") == []


async def test_python_and_lua_build_the_same_key_names(installation: Installation) -> None:
    await installation.batch("b1", 2)
    await installation.claim(1)
    known = Keys("pixmill")
    expected = {
        known.events, known.batch_events("b1"), known.index, known.active, known.depth, known.dirty, known.jobs,
        known.item("default/b1/i0"), known.item("default/b1/i1"), known.group("default/b1"),
        known.members("default/b1"), known.stream("default", "normal"), known.ring("default", "normal"),
        known.waiting("default"), known.tenants, known.installation,
    }  # fmt: skip
    assert {key.decode() for key in await installation.redis.keys("*")} == expected


async def test_an_end_without_items_closes_nothing_that_is_open(installation: Installation) -> None:
    await installation.batch("b1", 1)
    await installation.queue.accept([], PartEnd("default/b1", "1", ""))
    assert (await installation.group("default/b1"))["parts_left"] == "0"
    assert (await installation.group("default/b1"))["state"] == "running"
