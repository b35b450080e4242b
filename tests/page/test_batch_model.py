"""The model of a batch in the browser: snapshots and events in any order end in the same items."""

from __future__ import annotations

from typing import Any

from tests.page.rig.visit import Visit

BEGAN, COUNTS = (
    "2030-01-01T00:00",
    ("throttled", "retry_wait", "succeeded", "failed", "cancelled", "expired", "held"),
)
# A model that read `rows` as its snapshot, and then had `events`.
MODEL = """async ({ rows, events }) => {
  const { BatchModel } = await import(new URL("page/batch/model.js", location));
  const model = new BatchModel();
  model.takeRecord({ state: "running", paused: null });
  model.takePage(rows);
  model.endReading(new Set(rows.map((row) => row.id)));
  for (const [kind, data] of events) kind === "look" ? model.look(Date.parse(data)) : model.apply(kind, data);
  const items = Object.fromEntries([...model.items.values()].map((item) => [item.id, item]));
  const line = Object.fromEntries([...model.lines(Date.now())].map(([route, ids]) => [route, ids.map(({ id }) => id)]));
  const { counts, isStale, failures, record } = model;
  return { items, line, counts, isStale, failures, record };
}"""


def row(ident: str, state: str = "queued", **more: Any) -> dict[str, Any]:
    """An item as the API lists it."""
    times = {"accepted_at": at(0), "started_at": None, "finished_at": None, "due_at": None}
    fields = {
        "prompt": "x",
        "route": "default",
        "attempts": 0,
        "max_attempts": 5,
        "metadata": {},
        "error": None,
    }
    return {"id": ident, "state": state, **times, **fields, **more}


def at(second: int) -> str:
    return f"{BEGAN}:{second:02}.000Z"


def event(kind: str, item: str, second: int, **more: Any) -> tuple[str, dict[str, Any]]:
    return f"job.{kind}", {"item": item, "time": at(second), **more}


def progress(second: int, **counts: int) -> tuple[str, dict[str, Any]]:
    return "batch.progress", {"time": at(second), "counts": dict.fromkeys(COUNTS, 0) | counts}


async def model(
    visit: Visit, rows: list[dict[str, Any]], *events: tuple[str, dict[str, Any] | str]
) -> dict[str, Any]:
    page = await visit.open()
    found: dict[str, Any] = await page.evaluate(MODEL, {"rows": rows, "events": events})
    return found


async def test_an_event_that_is_older_than_the_snapshot_changes_nothing(visit: Visit) -> None:
    found = await model(visit, [row("a", "succeeded", finished_at=at(9))], event("started", "a", 3))
    assert found["items"]["a"]["state"] == "succeeded"


async def test_a_retry_names_its_time_and_its_attempts(visit: Visit) -> None:
    error = {"kind": "provider_fault", "message": "No.", "charged": "maybe"}
    again = event("retrying", "a", 2, state="retry_wait", attempts=1, delay_seconds=30, error=error)
    found = await model(visit, [row("a")], event("started", "a", 1), again)
    item = found["items"]["a"]
    assert (item["state"], item["attempts"], item["dueMs"] - item["startedMs"]) == ("retry_wait", 1, 31_000)


async def test_an_item_that_a_person_retries_is_the_next_one(visit: Visit) -> None:
    found = await model(visit, [row("a"), row("b"), row("c", "failed")], event("queued", "c", 5))
    assert found["line"] == {"default": ["c", "a", "b"]}


async def test_the_events_of_an_acceptance_leave_the_line_as_it_is(visit: Visit) -> None:
    found = await model(visit, [row("a"), row("b")], event("queued", "a", 0), event("queued", "b", 0))
    assert found["line"] == {"default": ["a", "b"]}


async def test_each_route_has_a_line_of_its_own(visit: Visit) -> None:
    found = await model(visit, [row("a"), row("b", route="other"), row("c")])
    assert found["line"] == {"default": ["a", "c"], "other": ["b"]}


async def test_failures_are_grouped_by_their_kind(visit: Visit) -> None:
    kinds = ["timeout", "moderation_input", "moderation_input"]
    rows = [row(f"i{n}", "failed", error={"kind": kind}) for n, kind in enumerate(kinds)]
    found = await model(visit, rows)
    assert [(each["kind"], each["count"]) for each in found["failures"]] == [
        ("moderation_input", 2),
        ("timeout", 1),
    ]


async def test_counts_that_differ_for_long_have_the_items_read_again(visit: Visit) -> None:
    released = {"queued": 1, "running": 0}
    rows = [row("a", "running", started_at=at(1))]
    assert not (await model(visit, rows, progress(2, **released)))["isStale"], "an event may be on its way"
    assert (await model(visit, rows, progress(2, **released), progress(7, **released)))["isStale"]


async def test_a_move_without_an_event_is_noticed_though_nothing_follows(visit: Visit) -> None:
    rows = [row("a", "running", started_at=at(1))]
    released = progress(2, queued=1)
    assert not (await model(visit, rows, released, ("look", at(4))))["isStale"], "an event may be on its way"
    assert (await model(visit, rows, released, ("look", at(7))))["isStale"]
    moved = event("retrying", "a", 3, state="queued", attempts=0)
    assert not (await model(visit, rows, released, moved, ("look", at(7))))["isStale"], "the event has come"


async def test_an_item_that_only_an_event_names_is_read_from_its_record(visit: Visit) -> None:
    found = await model(visit, [row("a")], event("queued", "b", 1, metadata={"sku": "1"}))
    assert (found["counts"]["total"], found["isStale"]) == (2, True)


async def test_the_reason_of_a_pause_is_apart_from_its_signature(visit: Visit) -> None:
    paused = ("work.paused", {"reason": "the prompt is wrong (by maker)"})
    record = (await model(visit, [row("a")], paused))["record"]
    assert (record["paused"], record["paused_by"]) == ("the prompt is wrong", "maker")
