"""A model of the queue in plain Python, with which test_state_machine.py compares the scripts.

It knows no stream, list or script. It holds the state of every item, what was counted and which events were published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pixmill.records.keys import Uid
from tests.daemon.queue.model_items import (
    FINAL,
    NOT_ENDED,
    RETRYABLE,
    WITHOUT_A_PICTURE,
    Group,
    Item,
    content_of,
    gid_of,
    pictures_of,
)

Event = tuple[str, str, str, str | None]


class QueueModel:
    """Items, groups, and unread results (`events`, `dead`, `ended`)."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.groups: dict[str, Group] = {}
        self.events: Counter[Event] = Counter()
        self.dead: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    # Intake

    def take_job(self, job: Mapping[str, Any], now_us: int) -> None:
        """An entry with a job of one picture."""
        uid = Uid(job["tenant"], "", job["id"])
        known = self.items.get(str(uid))
        if known is not None or str(uid) in self.groups:
            same = known is not None and known.content == content_of(job)
            self._emit("job.duplicate" if same else "job.rejected", uid)
            return
        self._accept(uid, None, 1, job, content_of(job), now_us)

    def take_group(
        self, payload: Mapping[str, Any], now_us: int, *, chunk: int, dies_after: int | None = None
    ) -> bool:
        """An entry with a batch or a job of several; False when its taker died after so many chunks."""
        group, part, answer = self._open(payload)
        if answer in {"duplicate", "conflict"}:
            kind = "job.duplicate" if answer == "duplicate" else "job.rejected"
            self._emit_of(payload, kind)
            return True
        members = list(pictures_of(payload))
        for number, start in enumerate(range(0, len(members), chunk)):
            if number == dies_after:
                return False
            for uid, job, content in members[start : start + chunk]:
                self._take_member(group, part, uid, job, content, now_us)
        if part not in group.done:
            group.done.add(part)
            group.parts_left -= 0 if group.cancel else 1
            self._end_group_if_done(group)
        return True

    def _open(self, payload: Mapping[str, Any]) -> tuple[Group, int, str]:
        gid, kind = gid_of(payload)
        part, parts = payload.get("part", 1), payload.get("parts", 1)
        group = self.groups.get(gid)
        content = content_of(payload)
        if group is not None:
            if group.kind != kind or group.parts != parts or group.begun.get(part, content) != content:
                return group, part, "conflict"
            if part in group.begun:
                return group, part, "duplicate" if part in group.done else "resume"
            if group.state != "running" and not group.cancel:
                group.state = "running"
        else:
            group = Group(gid, kind, parts, payload.get("max_in_flight"), parts)
            if kind == "job" and gid in self.items:
                return group, part, "conflict"
            self.groups[gid] = group
            if kind == "batch":
                self._emit_of(payload, "batch.accepted")
        group.begun[part] = content
        group.to_come[part] = len(list(pictures_of(payload)))
        return group, part, "new"

    def _take_member(
        self, group: Group, part: int, uid: Uid, job: Mapping[str, Any], content: str, now_us: int
    ) -> None:
        known = self.items.get(str(uid))
        if known is None:
            group.to_come[part] -= 1
            self._accept(uid, group, part, job, content, now_us)
        elif known.part != part or known.content != content:
            self._emit("job.duplicate" if known.content == content else "job.rejected", uid)
            if (part, uid) not in group.withdrawn:
                group.withdrawn.add((part, uid))
                group.to_come[part] -= 1

    def _accept(
        self, uid: Uid, group: Group | None, part: int, job: Mapping[str, Any], content: str, now_us: int
    ) -> None:
        due_us = job.get("not_before_us")
        item = Item(
            uid,
            group,
            part,
            content,
            job.get("priority", "normal"),
            job.get("max_attempts", 5),
            job.get("on_unknown_outcome", "retry_once"),
            job.get("expires_us"),
            due_us if due_us is not None and due_us > now_us else None,
        )
        self.items[str(uid)] = item
        self._emit("job.queued", uid)
        if group is not None:
            group.members.append(item)
            if group.cancel:
                self._end(item, "cancelled")

    # Runs

    def start(self, uid: str, now_us: int) -> Item:
        """A claim has handed the item out: it must wait, be due and not be past its expiry."""
        item = self.items[uid]
        assert item.waits, f"{uid} was claimed although it is {item.state}"
        assert item.due_us is None, f"{uid} was claimed before its time"
        assert not item.overdue(now_us), f"{uid} was claimed after its expiry"
        item.state = "running"
        item.epoch = max(item.epoch + 1, now_us)
        item.deliveries += 1
        item.take_up()
        if item.group is not None and item.group.cap is not None:
            assert item.group.running <= item.group.cap
        self._emit("job.started", item.uid)
        return item

    def startable(self, now_us: int) -> list[Item]:
        """The items that a claim with room for all would start."""
        return [
            item
            for item in self.items.values()
            if item.waits
            and item.due_us is None
            and not item.overdue(now_us)
            and (item.group is None or item.group.cap is None or item.group.running < item.group.cap)
        ]

    def owns(self, uid: str, epoch: int) -> bool:
        item = self.items[uid]
        return item.state == "running" and item.epoch == epoch

    def note_intent(self, uid: str) -> str:
        """The receipt that the owner must poll instead of a call; empty if the call may be sent."""
        item = self.items[uid]
        item.take_up()
        item.intent = not item.receipt
        return item.receipt

    def note_receipt(self, uid: str, epoch: int, receipt: str) -> str:
        """The verdict on a receipt from the item's present or former worker."""
        item = self.items[uid]
        if not self.owns(uid, epoch):
            return self._note_late(item, receipt)
        if item.receipt != receipt:
            item.receipt = receipt
            self._emit("job.submitted", item.uid)
            if item.late:
                self.dead["late_receipt"] += 1
                return "second"
        return "ours"

    def _note_late(self, item: Item, receipt: str) -> str:
        if receipt in (item.receipt, item.late):
            return "kept"
        free, needed = not item.late, not item.receipt and item.state != "succeeded"
        item.late = item.late or receipt
        if free and needed and item.state not in FINAL:
            self._emit("job.submitted", item.uid)
            return "kept"
        self.dead["late_receipt"] += 1
        return "buried"

    def take_over(self, uid: str, most_crashes: int, now_us: int) -> bool:
        """A reclaim has found it silent; False when it is given up as poison."""
        item = self.items[uid]
        item.silent = False
        item.take_up()
        if item.crashes == most_crashes:
            self.dead["poison"] += 1
            item.resumable = bool(item.receipt)
            if item.intent:
                item.calls["yes" if item.receipt else "maybe"] += 1
            self._end(item, "failed")
            return False
        item.crashes += 1
        item.epoch = max(item.epoch + 1, now_us)
        item.deliveries += 1
        return True

    def settle(self, uid: str, epoch: int, outcome: str, delay_us: int, charged: str, now_us: int) -> str:
        """The state that the settle must answer."""
        item = self.items[uid]
        if not self.owns(uid, epoch):
            return item.settled[2] if item.settled and item.settled[:2] == (epoch, outcome) else "lost"
        if item.cancel and outcome in NOT_ENDED:
            if outcome != "released":
                item.receipt = ""
            self._end(item, "cancelled")
        elif not item.cancel and item.late and outcome in WITHOUT_A_PICTURE:
            item.state, item.receipt, item.intent, item.crashes = "queued", "", False, 0
            self._emit("job.retrying", item.uid)
        else:
            self._outcome(item, outcome, now_us)
        if item.state in {"retry_wait", "throttled"} and outcome in {"retry", "throttled"} and delay_us > 0:
            item.due_us = now_us + delay_us
        item.silent = False
        item.calls[charged] += 1
        item.settled = (epoch, outcome, item.state)
        return item.state

    def _outcome(self, item: Item, outcome: str, now_us: int) -> None:
        match outcome:
            case "succeeded":
                self._end(item, outcome)
            case "cancelled":
                item.receipt = ""
                self._end(item, outcome)
            case "failed":
                self._fail(item, None)
            case "held":
                item.state = "held"
                self._emit("job.held", item.uid)
            case "released":
                item.state, item.intent = "queued", False
            case "retry" if item.attempts + 1 >= item.max_attempts:
                self._fail(item, "attempts_exhausted")
            case "retry":
                item.attempts += 1
                item.crashes = 0
                self._wait(item, "retry_wait")
            case "throttled":
                item.throttles += 1
                item.crashes = 0
                self._wait(item, "throttled")
            case "unknown" if item.policy == "hold":
                self._outcome(item, "held", now_us)
            case "unknown" if item.policy == "fail" or item.unknowns or item.past(now_us):
                self._fail(item, "unknown_outcome")
            case "unknown":
                item.unknowns += 1
                self._wait(item, "retry_wait")

    def _wait(self, item: Item, state: str) -> None:
        item.state, item.receipt, item.intent = state, "", False
        self._emit("job.retrying", item.uid)

    def _fail(self, item: Item, reason: str | None) -> None:
        item.attempts += 1
        if reason is not None:
            self.dead[reason] += 1
        self._end(item, "failed")

    # Time and orders

    def due(self, now_us: int) -> int:
        """Queue or end the due items; returns how many."""
        moved = 0
        for item in self.items.values():
            if item.overdue(now_us):
                self._end(item, "expired")
                moved += 1
        for item in self.items.values():
            if item.waits and item.due_us is not None and item.due_us <= now_us:
                item.due_us = None
                moved += 1
        return moved

    def expire(self, uid: str) -> None:
        """A claim stepped over it after its expiry."""
        self._end(self.items[uid], "expired")

    def cancel(self, kind: str, name: str, states: Sequence[str]) -> tuple[int, int] | None:
        """How many ended and how many were requested to stop; None for an unknown id."""
        targets = self._targets(kind, name)
        if targets is None:
            return None
        group = self.groups.get(name)
        if kind == "group" and group is not None and "queued" in states and group.state == "running":
            group.cancel, group.parts_left = True, 0
            self._end_group_if_done(group)
        ended = requested = 0
        for item in [item for item in targets if item.state in states]:
            if item.state == "held" and not item.resumable:
                item.receipt = ""
            if item.waits or item.state == "held":
                self._end(item, "cancelled")
                ended += 1
            elif item.state == "running":
                item.cancel = True
                requested += 1
        return ended, requested

    def retry(self, kind: str, name: str, states: Sequence[str], now_us: int) -> int | None:
        """How many are queued again; None for an unknown id."""
        targets = self._targets(kind, name)
        if targets is None:
            return None
        chosen = [item for item in targets if item.state in RETRYABLE and item.state in states]
        for item in chosen:
            resumable = item.resumable or item.state == "cancelled"
            item.state, item.cancel, item.due_us = "queued", False, None
            item.attempts = item.throttles = item.crashes = item.unknowns = 0
            item.receipt, item.resumable, item.intent = item.receipt if resumable else "", False, False
            if item.expires_us is not None and item.expires_us <= now_us:
                item.expires_us = None
            self._emit("job.queued", item.uid)
            if item.group is not None:
                item.group.cancel, item.group.state = False, "running"
        return len(chosen)

    def _targets(self, kind: str, name: str) -> list[Item] | None:
        if kind == "group":
            return list(self.groups[name].members) if name in self.groups else None
        return [self.items[name]] if name in self.items else None

    def waiting_by_tenant(self) -> Counter[str]:
        """How many items of each tenant wait, those that are still to come among them."""
        waiting = Counter(item.uid.tenant for item in self.items.values() if item.waits)
        for group in self.groups.values():
            waiting[group.gid.partition("/")[0]] += group.to_come.total()
        return +waiting

    # Ends

    def _end(self, item: Item, state: str) -> None:
        if item.state != "running":
            self.ended[f"default|{state}"] += 1
        item.state, item.due_us, item.silent = state, None, False
        self._emit(f"job.{state}", item.uid)
        if item.group is not None:
            self._end_group_if_done(item.group)

    def _end_group_if_done(self, group: Group) -> None:
        if group.open or group.parts_left > 0 or group.state != "running":
            return
        counts = group.counts()
        group.state = "completed_with_errors"
        ends = {"succeeded": "completed", **{end: end for end in ("failed", "cancelled", "expired")}}
        for state, end in reversed(ends.items()):
            if counts[state] == counts.total():
                group.state = end
        if group.kind == "batch":
            tenant, batch = group.gid.split("/")
            self.events["batch.finished", tenant, batch, batch] += 1

    # Events

    def _emit(self, kind: str, uid: Uid) -> None:
        self.events[kind, uid.tenant, uid.item, uid.batch or None] += 1

    def _emit_of(self, payload: Mapping[str, Any], kind: str) -> None:
        batch = payload["id"] if "items" in payload else None
        self.events[kind, payload["tenant"], payload["id"], batch] += 1
