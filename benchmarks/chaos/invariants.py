"""The invariants of every run. Each is a function from the story to sentences about its violations.

The two books agree in the following way. Pixmill counts the calls of an item by their charge (`calls_no`,
`calls_maybe`, `calls_yes`); the simulator has the arrivals of the item, and which of them it charged.

* Every arrival is counted once. Pixmill also counts two kinds of calls that never arrived, always as `maybe`: one whose
  intent was written by a worker that was killed before it sent the call, at most one for each takeover of the item; and
  one whose connection broke while it was written, which no sender can tell from one that arrived.
* The number of charged calls lies between `yes` and `yes + maybe`: no call under `no` was charged, and every call under
  `yes` was.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter

from benchmarks.chaos.plan import PAID_IN_VAIN
from benchmarks.chaos.stage import FINAL, IN_FLIGHT, counts_of, rate
from benchmarks.chaos.story import Call, Story
from providers.errors import RULES, Retry
from providers.simulator.ledger import max_in_window

FINAL_EVENTS = frozenset(f"job.{state}" for state in FINAL)
LAST_EVENTS = FINAL_EVENTS | {"job.held"}
UNKNOWN = frozenset(kind.value for kind, rule in RULES.items() if rule.retry is Retry.UNKNOWN_OUTCOME)
BROKEN_PIPE = os.strerror(errno.EPIPE).lower()  # a write that the system refused
# Keys without a TTL, and the owner of each. All other such keys belong to work that has not ended.
OWNERS = {
    "pixmill:installation": "three fields, written by each replica when it starts",
    "pixmill:jobs": "the intake takes entries off; producers add them",
    "pixmill:events": "trimmed to its latest 100,000 by each script that adds to it",
    "pixmill:dead": "trimmed to its latest 100,000; an operator purges it",
    "pixmill:index": "trimmed to its latest 10,000 by each script that adds to it",
    "pixmill:call_s": "one field for each route",
    "pixmill:depth": "one field for each route, lane and state",
    "pixmill:lanes:*": "three fields for each route",
    "pixmill:q:*": "entries go with their items; the stream stays with its group",
}

Check = Callable[[Story], Iterator[str]]


def nothing_lost(story: Story) -> Iterator[str]:
    """Every item ended or is held, with its reason; a success has its picture in the store, whole and readable."""
    for item in story.plan.items:
        record = story.records[item.id]
        state = record.get("state", "without a record")
        if state not in (*FINAL, "held"):
            yield f"{item.id} is {state}"
        elif state in ("failed", "held") and not record.get("error"):
            yield f"{item.id} is {state} without a reason"
        elif problem := story.pictures.get(item.id, "" if state != "succeeded" else "not looked at"):
            yield f"{item.id}: {problem}"


def settled_once(story: Story) -> Iterator[str]:
    """Each item has one event of its end, which agrees with the record, and no event after that.

    Only the receipt of a held item may still come: it is news for the person who decides.
    """
    events = story.events_of()
    for item in story.plan.items:
        kinds = [kind for kind, _ in events.get(item.id, [])]
        ends = [kind for kind in kinds if kind in LAST_EVENTS]
        state = story.records[item.id].get("state")
        if ends != [f"job.{state}"]:
            yield f"{item.id} is {state}, and the events of its end are {ends}"
        elif kinds[-1] != ends[0] and kinds[kinds.index(ends[0]) :] != ["job.held", "job.submitted"]:
            yield f"{item.id}: {kinds[-1]} was published after {ends[0]}"


def not_paid_after_a_receipt(story: Story) -> Iterator[str]:
    """Once a task is known, no call of its item arrives, unless the provider itself spoilt that task."""
    calls, events = story.calls_of(), story.events_of()
    for item in story.plan.items:
        own = calls.get(item.id, [])
        receipts = {data.get("task_id") for kind, data in events.get(item.id, []) if kind == "job.submitted"}
        followed = sum(call.task in receipts for call in own[:-1] if call.task)
        if followed > int(item.spoilt):
            yield f"{item.id} was bought again after a receipt ({len(own)} calls)"
        if unknown := receipts - {call.task for call in own}:
            yield f"{item.id} has receipts for tasks that no call began: {unknown}"


def unknown_outcomes(story: Story) -> Iterator[str]:
    """`hold` and `fail` buy nothing again, `retry_once` once; every call has its event."""
    calls, events = story.calls_of(), story.events_of()
    for item in story.plan.items:
        own, published = calls.get(item.id, []), events.get(item.id, [])
        # A retry with a task polls that task, and sends nothing.
        retried = [d for kind, d in published if kind == "job.retrying" and not d["error"].get("resumable")]
        lost = sum(data["error"]["kind"] in UNKNOWN for data in retried)
        if lost > int(item.policy == "retry_once"):
            yield f"{item.id} ({item.policy}) was sent again after {lost} lost answers"
        if published and published[-1][0] == "job.held" and item.policy != "hold":
            yield f"{item.id} ({item.policy}) is held"
        if len(own) > len(retried) + 1:
            yield f"{item.id}: {len(own)} calls arrived, and {len(retried)} retries were published"
        paid = sum(call.paid for call in own)
        if paid > 1 + lost + int(item.fault_kind in PAID_IN_VAIN):
            yield f"{item.id} ({item.policy}) was paid for {paid} times, with {lost} lost answers"


def same_ledger(story: Story) -> Iterator[str]:
    """Both books agree on every item; see the module's docstring."""
    calls, events = story.calls_of(), story.events_of()
    for stranger in calls.keys() - {item.id for item in story.plan.items}:
        yield f"a call for {stranger!r}, which no producer sent"
    for item in story.plan.items:
        own, record, published = calls.get(item.id, []), story.records[item.id], events.get(item.id, [])
        no, maybe, yes = (int(record.get(f"calls_{charged}", 0)) for charged in ("no", "maybe", "yes"))
        taken_over = int(record.get("deliveries", 0)) - sum(kind == "job.started" for kind, _ in published)
        broke = sum(BROKEN_PIPE in (data.get("error") or {}).get("message", "") for _, data in published)
        unsent = no + maybe + yes - len(own)
        if not 0 <= unsent <= min(taken_over + broke, maybe):
            yield (
                f"{item.id}: {len(own)} calls arrived, {no}+{maybe}+{yes} are counted, {taken_over} takeovers, "
                f"{broke} broken connections"
            )
        paid = sum(call.paid for call in own)
        if not yes <= paid <= yes + maybe:
            yield f"{item.id}: {paid} calls were charged, {yes} yes and {maybe} maybe are counted"


def every_key_owned(story: Story) -> Iterator[str]:
    """Once nothing is held any more, a key without a TTL is one of OWNERS."""
    if not story.closed:
        yield "not every batch ended after its held items were cancelled"
    for key in sorted(story.keys_forever):
        if not any(key == name or (name.endswith("*") and key.startswith(name[:-1])) for name in OWNERS):
            yield f"{key} has no TTL and no owner"


def right_counts(story: Story) -> Iterator[str]:
    """A batch counts its members by their states; every progress sums to its total; its end has one event."""
    planned = {
        gid: [i for i in story.plan.items if f"{i.tenant}/{i.batch}" == gid] for gid in story.plan.batches
    }
    finished: Counter[str] = Counter()
    for kind, data in story.events:
        if kind in ("batch.progress", "batch.finished"):
            counts = dict(data["counts"])
            if counts.pop("total") != sum(counts.values()):
                yield f"{data['batch']}: {kind} has {data['counts']}"
            finished[f"{data['tenant']}/{data['batch']}"] += kind == "batch.finished"
    for gid, items in planned.items():
        group = story.groups[gid]
        states = Counter(story.records[item.id].get("state", "") for item in items)
        if +Counter(counts_of(group)) != states or int(group.get("total", 0)) != len(items):
            yield f"{gid} counts {counts_of(group)} of {group.get('total')}; its members are {dict(states)}"
        if story.members[gid] != {item.uid for item in items}:
            yield f"{gid} has {len(story.members[gid])} members and not its {len(items)}"
        if finished[gid] != int(not states["held"]):
            yield f"{gid}: its end was published {finished[gid]} times, {states['held']} are held"


def quotas_kept(story: Story) -> Iterator[str]:
    """The provider turned nothing away for its quotas, and its own count of each account stays within them."""
    for call in story.calls:
        if call.refused:
            yield f"{call.item} was turned away at {call.at_s:.2f}: {call.refused}"
    if story.polls_refused:
        yield f"{story.polls_refused} polls were turned away"
    for key, calls in _by_account(story):
        images = max_in_window(((call.at_s, call.images) for call in calls), rate().window_s)
        if images > rate().count:
            yield f"account {key}: {images} pictures in {rate().window_s:g} s"
        if (most := _most_at_once(calls)) > IN_FLIGHT:
            yield f"account {key}: {most} calls in flight"


def _by_account(story: Story) -> Iterator[tuple[str, list[Call]]]:
    admitted = sorted((call for call in story.calls if call.admitted), key=attrgetter("key", "at_s"))
    for key, calls in groupby(admitted, key=attrgetter("key")):
        yield key, list(calls)


def _most_at_once(calls: list[Call]) -> int:
    edges = [(call.at_s, 1) for call in calls]
    edges += [(call.ended_at_s, -1) for call in calls if call.ended_at_s is not None]
    most = running = 0
    for _, change in sorted(edges):
        running += change
        most = max(most, running)
    return most


def places_back(story: Story) -> Iterator[str]:
    """Nothing is pending, no place in flight is taken, and no name of a dead replica is left on a group."""
    for what, counts in (("places in flight", story.leases), ("pending entries", story.pending)):
        for name, count in counts.items():
            if count:
                yield f"{count} {what} of {name} are left"
    if story.running_at_provider:
        yield f"{story.running_at_provider} calls still run at the provider"
    for name in sorted(story.dead_names):
        yield f"{name} is dead and still a consumer"


def deployed_whole(story: Story) -> Iterator[str]:
    """Every replica that got SIGTERM settled the items that it ran (exit code 0)."""
    for number, code in enumerate(story.exit_codes):
        if code:
            yield f"the replica that left as number {number} ended with {code}"


INVARIANTS: dict[str, Check] = {
    "lost": nothing_lost,
    "settled twice": settled_once,
    "paid twice after a receipt": not_paid_after_a_receipt,
    "unknown outcomes against the job's word": unknown_outcomes,
    "items whose books differ": same_ledger,
    "keys without a TTL or an owner": every_key_owned,
    "batches with wrong counts": right_counts,
    "quotas exceeded": quotas_kept,
    "places and entries left": places_back,
    "deploys that handed over": deployed_whole,
}


def violations(story: Story) -> dict[str, list[str]]:
    """The violations of each invariant; an empty list means that it holds."""
    return {name: list(check(story)) for name, check in INVARIANTS.items()}
