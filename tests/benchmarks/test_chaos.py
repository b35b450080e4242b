"""A short chaos run holds all that it promises, and each of its invariants can be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from benchmarks.chaos.__main__ import Outcome, table
from benchmarks.chaos.fairness import BOUND_SLOTS, Waits, waits
from benchmarks.chaos.invariants import INVARIANTS, violations
from benchmarks.chaos.losses import LOST_SECOND, NO_WRITES, SLOW_CLOCK, Loss, judged
from benchmarks.chaos.plan import Entry, Item, Plan, make_plan
from benchmarks.chaos.scarce import FEW_DESCRIPTORS, harmed
from benchmarks.chaos.story import Call, Story
from providers.simulator.faults import FaultKind
from tests.benchmarks.smoke import MET, run_small


@pytest.mark.timed
@pytest.mark.timeout(600)
def test_a_short_run_loses_nothing_pays_nothing_twice_and_recovers_in_time(tmp_path: Path) -> None:
    options = ("--items", "80", "--seed", "7", "--minutes", "6", "--kills", "2")
    printed, written = run_small("chaos", tmp_path, *options, exit_codes=MET, timeout_s=590)
    assert written["held"] is True
    assert sum(written["states"].values()) == 80
    assert written["struck"]["redis restart"] == written["struck"]["rolling deploy"] == 1
    assert sum(written["struck"].values()) >= 4, "it was struck every two seconds"
    assert written["calls"]["arrived"] > 80, "faults and kills cost further calls"
    assert len(written["recoveries_s"]) == 2
    strikes = [LOST_SECOND, NO_WRITES, SLOW_CLOCK, FEW_DESCRIPTORS]
    assert [loss["strike"] for loss in written["losses"]] == strikes
    assert written["losses"][0]["never_accepted"], "jobs were accepted in the lost second, and are reported"
    for row in (*strikes, "- unknown outcomes", "- jobs lost with their entry"):
        assert f"\n{row}  " in printed
    assert all(loss["safe"] > 0 for loss in written["losses"]), (
        "each strike met pictures that were not settled"
    )
    assert set(written["broken"]) == set(INVARIANTS)
    assert printed.startswith("seed 7\n")


@pytest.mark.timeout(180)
async def test_four_items_beside_ten_thousand_wait_two_slots_more_than_alone(
    redis: Redis,
) -> None:
    assert (await waits(redis, small=4, large=100)).more_than_alone <= BOUND_SLOTS
    await redis.flushall()
    measured = await waits(redis)
    assert len(measured.slots) == 4
    assert measured.more_than_alone <= BOUND_SLOTS


async def test_alone_every_item_has_the_next_slot(redis: Redis) -> None:
    assert await waits(redis, small=4, large=0) == Waits((1, 1, 1, 1))


def test_the_same_seed_makes_the_same_plan_and_another_one_another() -> None:
    plan = make_plan(200, 3)
    assert plan == make_plan(200, 3)
    assert plan != make_plan(200, 4)
    assert len({item.id for item in plan.items}) == 200
    assert sum(plan.batches.values()) == sum(bool(item.batch) for item in plan.items)
    assert {item.route for item in plan.items} == {"zimage", "hunyuan", "openai", "openrouter"}
    assert 20 <= sum(1 for _ in plan.faults()) <= 60


TASK = Item("i00000", "anna", "b0", "zimage", "retry_once", "normal", None)
CALL = Item("i00001", "bert", "", "openai", "hold", "normal", None)
MADE = Call(TASK.id, "k1", 1.0, 2.0, admitted=True, refused="", task="t1", paid=True, images=1)


def story() -> Story:
    """Two items: a task that was taken over and bought once, and a held call with a lost reply."""
    plan = Plan(1, (TASK, CALL), (Entry("x", {}),), {"anna/b0": 1})
    task, call = {"item": TASK.id}, {"item": CALL.id}
    counts = {"total": 1, "succeeded": 1}
    return Story(
        plan,
        events=[
            ("job.queued", task),
            ("job.started", task),
            ("job.submitted", {**task, "task_id": "t1"}),
            ("job.queued", call),
            ("job.started", call),
            ("job.duplicate", call),
            ("job.succeeded", task),
            ("batch.finished", {"tenant": "anna", "batch": "b0", "counts": counts}),
            ("job.held", call),
        ],
        calls=[MADE, replace(MADE, item=CALL.id, key="k2", task="")],
        records={
            TASK.id: {"state": "succeeded", "deliveries": "2", "calls_yes": "1"},
            CALL.id: {"state": "held", "deliveries": "1", "calls_maybe": "1", "error": "{}"},
        },
        groups={"anna/b0": {"total": "1", "succeeded": "1"}},
        members={"anna/b0": {TASK.uid}},
        pictures={TASK.id: ""},
        leases={"zimage": 0},
        pending={"pixmill:jobs": 0},
        keys_forever={"pixmill:events", "pixmill:q:zimage:normal", "pixmill:lanes:openai"},
        exit_codes=[0, 0, 0],
    )


def test_a_story_as_it_should_be_breaks_nothing() -> None:
    assert violations(story()) == {name: [] for name in INVARIANTS}


def with_record(item: Item, **fields: str) -> Callable[[Story], None]:
    return lambda changed: changed.records[item.id].update(fields)


def with_event(kind: str, **data: object) -> Callable[[Story], None]:
    return lambda changed: changed.events.append((kind, data))


def with_call(**fields: object) -> Callable[[Story], None]:
    def add(changed: Story) -> None:
        changed.calls.append(replace(MADE, **fields))  # type: ignore[arg-type]  # any field

    return add


def spoilt(changed: Story) -> None:
    """A second call is right after the provider spoilt the first task."""
    item = replace(TASK, fault={"kind": FaultKind.TASK_FAILED})
    changed.plan = replace(changed.plan, items=(item, CALL))
    changed.calls.append(replace(MADE, task="t2", at_s=3.0))


BROKEN: list[tuple[str, str, Callable[[Story], object]]] = [
    ("a running item", "lost", with_record(TASK, state="running")),
    ("no record", "lost", lambda changed: changed.records[CALL.id].clear()),
    ("no reason", "lost", lambda changed: changed.records[CALL.id].pop("error")),
    ("no picture", "lost", lambda changed: changed.pictures.update({TASK.id: "there is no such file"})),
    ("two ends", "settled twice", with_event("job.succeeded", item=TASK.id)),
    ("another end", "settled twice", with_event("job.failed", item=TASK.id)),
    ("a start after the end", "settled twice", with_event("job.started", item=TASK.id)),
    ("a receipt after a success", "settled twice", with_event("job.submitted", item=TASK.id, task_id="t1")),
    ("an end without an event", "settled twice", lambda changed: changed.events.pop()),
    ("a second task", "paid twice after a receipt", with_call(task="t2", at_s=3.0)),
    (
        "a receipt for nothing",
        "paid twice after a receipt",
        lambda changed: changed.events.insert(3, ("job.submitted", {"item": TASK.id, "task_id": "t9"})),
    ),
    (
        "a second call in silence",
        "unknown outcomes against the job's word",
        with_call(item=CALL.id, key="k2", task="", at_s=3.0),
    ),
    (
        "sent again although it says hold",
        "unknown outcomes against the job's word",
        lambda changed: changed.events.insert(
            5, ("job.retrying", {"item": CALL.id, "error": {"kind": "ambiguous_submit"}})
        ),
    ),
    ("a call that nobody counted", "items whose books differ", with_record(TASK, calls_yes="0")),
    ("a call that nobody made", "items whose books differ", with_record(CALL, calls_maybe="2")),
    (
        "a charge that counts as none",
        "items whose books differ",
        with_record(TASK, calls_yes="0", calls_no="1"),
    ),
    ("a stranger", "items whose books differ", with_call(item="i77777")),
    (
        "a key for ever",
        "keys without a TTL or an owner",
        lambda changed: changed.keys_forever.add("pixmill:item:a//b"),
    ),
    ("an open batch", "keys without a TTL or an owner", lambda changed: setattr(changed, "closed", False)),
    ("counts", "batches with wrong counts", lambda changed: changed.groups["anna/b0"].update(failed="1")),
    (
        "a stranger in a batch",
        "batches with wrong counts",
        lambda changed: changed.members["anna/b0"].add("x//y"),
    ),
    (
        "progress",
        "batches with wrong counts",
        with_event("batch.progress", tenant="anna", batch="b0", counts={"total": 2, "queued": 1}),
    ),
    ("a refusal", "quotas exceeded", with_call(refused="images", admitted=False)),
    ("a poll refused", "quotas exceeded", lambda changed: setattr(changed, "polls_refused", 1)),
    ("a full window", "quotas exceeded", lambda changed: changed.calls.extend([MADE] * 30)),
    ("a lease", "places and entries left", lambda changed: changed.leases.update(zimage=1)),
    ("an entry", "places and entries left", lambda changed: changed.pending.update({"pixmill:jobs": 1})),
    ("a name", "places and entries left", lambda changed: changed.dead_names.add("vm-1-ab")),
    ("a hand-over", "deploys that handed over", lambda changed: changed.exit_codes.append(1)),
]


@pytest.mark.parametrize(
    ("invariant", "breaking"), [(b[1], b[2]) for b in BROKEN], ids=[b[0] for b in BROKEN]
)
def test_each_invariant_can_be_broken(invariant: str, breaking: Callable[[Story], object]) -> None:
    changed = story()
    breaking(changed)
    assert violations(changed)[invariant]


def test_a_task_that_the_provider_spoilt_may_be_bought_again() -> None:
    changed = story()
    spoilt(changed)
    assert violations(changed)["paid twice after a receipt"] == []
    changed.calls.append(replace(MADE, task="t3", at_s=4.0))
    changed.events.insert(4, ("job.submitted", {"item": TASK.id, "task_id": "t2"}))
    assert violations(changed)["paid twice after a receipt"]


def test_the_receipt_of_a_held_item_may_still_come() -> None:
    changed = story()
    changed.events.append(("job.submitted", {"item": CALL.id, "task_id": "t2"}))
    changed.calls[1] = replace(changed.calls[1], task="t2")
    assert violations(changed) == {name: [] for name in INVARIANTS}


def test_a_call_whose_connection_broke_may_be_counted_without_an_arrival() -> None:
    changed = story()
    changed.records[CALL.id]["calls_maybe"] = "2"
    error = {
        "kind": "ambiguous_submit",
        "message": "The request was sent, but its answer was lost (broken pipe).",
    }
    changed.events[-1] = ("job.held", {"item": CALL.id, "error": error})
    assert violations(changed)["items whose books differ"] == []
    changed.records[CALL.id]["calls_maybe"] = "3"
    assert violations(changed)["items whose books differ"]


@pytest.mark.parametrize(
    ("item", "stored", "state", "calls", "wrong"),
    [
        (TASK, True, "succeeded", 1, False),
        (TASK, True, "succeeded", 2, True),
        (TASK, True, "held", 1, True),
        (TASK, False, "succeeded", 2, True),
        (replace(TASK, route="openai"), False, "succeeded", 2, False),
        (replace(TASK, route="openai"), False, "succeeded", 3, True),
        (CALL, False, "held", 1, False),
        (CALL, False, "succeeded", 2, True),
        (CALL, False, "running", 1, True),
    ],
)
def test_a_loss_is_wrong_where_the_picture_or_its_task_was_known(
    item: Item, stored: bool, state: str, calls: int, wrong: bool
) -> None:
    loss = judged(
        LOST_SECOND,
        [item],
        {item.id} if stored else set(),
        {item.id: {"state": state}},
        {item.id: calls},
        tasks_known=True,
    )
    assert loss.held != wrong


@pytest.mark.parametrize(
    ("record", "calls", "wrong"),
    [
        ({"state": "succeeded", "attempts": "0", "throttles": "3"}, 1, ""),
        ({"state": "succeeded", "attempts": "1", "error": "e"}, 1, "lost 1 attempts: e"),
        ({"state": "succeeded", "attempts": "0"}, 2, "was bought 2 times"),
        ({"state": "failed", "error": "no PNG"}, 1, "is failed: no PNG"),
        ({"state": "queued"}, 0, "is queued: no reason is known"),
        ({}, 0, "is without a record: no reason is known"),
    ],
)
def test_a_lack_of_descriptors_costs_no_item_a_picture_or_an_attempt(
    record: dict[str, str], calls: int, wrong: str
) -> None:
    found = harmed([TASK], {TASK.id: record}, {TASK.id: calls})
    assert found == ([f"{TASK.id} {wrong}"] if wrong else [])


@pytest.mark.parametrize(
    ("list_of", "row"),
    [
        ("wrong", LOST_SECOND),
        ("disobeyed", "- unknown outcomes"),
        ("not_made", "- jobs lost with their entry"),
    ],
)
def test_each_row_of_a_loss_can_be_broken(list_of: str, row: str) -> None:
    loss = Loss(LOST_SECOND, 8, never_accepted=["late-00"])
    assert loss.held
    assert not any(each.broken for each in loss.rows())
    setattr(loss, list_of, ["late-00 is running"])
    assert not loss.held
    assert [each.name for each in loss.rows() if each.broken] == [row]


def test_lost_jobs_are_reported_by_name_and_only_where_jobs_can_be_lost() -> None:
    (*_, last) = Loss(LOST_SECOND, 8, never_accepted=["late-00", "late-01"]).rows()
    assert last.text == "0 not made when sent again; 2 lost: late-00, late-01"
    assert len(Loss(NO_WRITES, 8).rows()) == 2


def test_an_unknown_outcome_is_counted_by_what_followed() -> None:
    again = replace(TASK, route="openai")
    records = {again.id: {"state": "succeeded"}, CALL.id: {"state": "held"}}
    loss = judged(NO_WRITES, [again, CALL], set(), records, {again.id: 2, CALL.id: 1}, tasks_known=False)
    assert loss.unknown == {"retry_once: bought again": 1, "hold: held": 1}


def test_a_broken_run_says_so_with_the_first_sentences() -> None:
    calls = {"arrived": 2, "admitted": 2, "charged": 2, "turned away": 0}
    broken = {"lost": [f"i{number} is running" for number in range(9)], "settled twice": []}
    outcome = Outcome(1, 9, 3.0, True, {"running": 9}, {"kill": 1}, calls, broken, [1.0], 4.0, (2, 2))
    assert not outcome.held
    assert "BROKEN" in table(outcome)
    assert "i0 is running" in table(outcome)
    assert replace(outcome, broken={"lost": []}).held
    assert not replace(outcome, broken={}, recoveries_s=[99.0]).held
    assert not replace(outcome, broken={}, waits_slots=(9,)).held
    assert not replace(outcome, broken={}, rested=False).held
    lossy = replace(outcome, broken={}, losses=[Loss(NO_WRITES, 1, wrong=["i0 is running"])])
    assert not lossy.held
    assert "0 lay in the store  BROKEN" in table(lossy)
