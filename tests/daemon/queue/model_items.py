"""The items and groups of the queue's model, and their creation from payloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from pixmill.records.keys import Uid, batch_gid, job_gid

WAITING = frozenset({"queued", "retry_wait", "throttled"})
FINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})
RETRYABLE = frozenset({"failed", "cancelled", "expired", "held"})
WITHOUT_A_PICTURE = frozenset({"retry", "unknown", "failed", "held"})
NOT_ENDED = frozenset({"retry", "throttled", "unknown", "released", "held"})


@dataclass(eq=False)
class Item:
    """One item. `due_us` is the time before which it may not start; it is forgotten when that has come."""

    uid: Uid
    group: Group | None
    part: int
    content: str
    lane: str
    max_attempts: int
    policy: str
    expires_us: int | None
    due_us: int | None
    state: str = "queued"
    attempts: int = 0
    deliveries: int = 0
    throttles: int = 0
    crashes: int = 0
    unknowns: int = 0
    epoch: int = 0
    cancel: bool = False
    silent: bool = False
    intent: bool = False  # a call of its was about to be sent
    receipt: str = ""
    late: str = ""  # a receipt of a worker that had lost it
    resumable: bool = False  # its failure leaves the task good
    settled: tuple[int, str, str] | None = None
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    def overdue(self, now_us: int) -> bool:
        """Whether it is past its expiry. An item with a task has started and does not expire."""
        return self.waits and not self.has_task and self.past(now_us)

    @property
    def has_task(self) -> bool:
        return bool(self.receipt or self.late)

    def past(self, now_us: int) -> bool:
        return self.expires_us is not None and self.expires_us <= now_us

    def take_up(self) -> None:
        """It goes on with its own receipt, else with a late one."""
        if not self.receipt:
            self.receipt, self.late = self.late, ""


@dataclass(eq=False)
class Group:
    """A batch, or a job of several pictures. `to_come`: members that are counted already, by part."""

    gid: str
    kind: str
    parts: int
    cap: int | None
    parts_left: int
    begun: dict[int, str] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    to_come: Counter[int] = field(default_factory=Counter)
    members: list[Item] = field(default_factory=list)
    withdrawn: set[tuple[int, Uid]] = field(default_factory=set)
    cancel: bool = False
    state: str = "running"

    def counts(self) -> Counter[str]:
        counts = Counter(item.state for item in self.members)
        counts["queued"] += self.to_come.total()
        return +counts

    @property
    def open(self) -> int:
        return sum(item.state not in FINAL for item in self.members) + self.to_come.total()

    @property
    def running(self) -> int:
        return sum(item.state == "running" for item in self.members)


def gid_of(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The group's name, and whether it is a batch or a job."""
    if "items" in payload:
        return batch_gid(payload["tenant"], payload["id"]), "batch"
    return job_gid(payload["tenant"], payload["id"]), "job"


def pictures_of(payload: Mapping[str, Any]) -> Iterable[tuple[Uid, Mapping[str, Any], str]]:
    """The members of a group with the fields of their job, and what makes two contents differ."""
    tenant = payload["tenant"]
    if "items" in payload:
        for item in payload["items"]:
            job = {**item, "tenant": tenant}
            yield Uid(tenant, payload["id"], item["id"]), job, content_of(job)
        return
    for k in range(payload["n"]):
        yield Uid(tenant, "", f"{payload['id']}.{k}"), payload, f"{content_of(payload)}.{k}"


def content_of(payload: Mapping[str, Any]) -> str:
    return orjson.dumps(payload, option=orjson.OPT_SORT_KEYS).decode()
