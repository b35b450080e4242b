"""The state after a run: the simulator's books and ours, read when all work has ended."""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.chaos.plan import Item, Plan
from benchmarks.chaos.stage import Stage, until

LEASES_END_S = 30.0  # a call without an answer keeps its place until its lease is over
ASK_S = 0.2
NAMES_GO_S = 60.0  # names of killed replicas are taken off some leases later


@dataclass(frozen=True, slots=True)
class Call:
    """An arrival at the simulator."""

    item: str
    key: str  # digest of the account's secret
    at_s: float
    ended_at_s: float | None
    admitted: bool
    refused: str  # the quota that turned it away
    task: str
    paid: bool
    images: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Call:
        return cls(
            item=entry["prompt"].partition(", ")[2].rstrip("."),
            key=entry["key"],
            at_s=entry["at_s"],
            ended_at_s=entry["ended_at_s"],
            admitted=entry["admitted"],
            refused=entry["refused"],
            task=entry["task"],
            paid=entry["billed"] > 0 or float(entry["cost"]) > 0,
            images=entry["images"],
        )


@dataclass
class Story:
    """`records` are by item, `groups` by gid; `pictures` has the fault of each item's picture, or ''."""

    plan: Plan
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    polls_refused: int = 0
    running_at_provider: int = 0
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    dead_names: set[str] = field(default_factory=set)
    keys_forever: set[str] = field(default_factory=set)  # without a TTL, once nothing is held any more
    closed: bool = True  # whether every batch ended after its held items were cancelled
    exit_codes: list[int] = field(default_factory=list)  # of the replicas that got SIGTERM

    def calls_of(self) -> dict[str, list[Call]]:
        """The calls by item, in the order of arrival."""
        by_item: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            by_item[call.item].append(call)
        return by_item

    def events_of(self) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """The `job.*` events by item, in order. `job.duplicate` is about an entry, not about its item."""
        by_item: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        for kind, data in self.events:
            if kind.startswith("job.") and kind != "job.duplicate":
                by_item[data["item"]].append((kind, data))
        return by_item


def read_story(stage: Stage, plan: Plan, exit_codes: list[int]) -> Story:
    """Read everything. Waits for work that ends by itself, and at last cancels held items."""
    until(lambda: stage.simulator.ledger()["in_flight"] == 0, LEASES_END_S, ASK_S)
    until(lambda: not any(stage.leases().values()) and not any(stage.pending().values()), LEASES_END_S, ASK_S)
    until(lambda: not _dead_names(stage), NAMES_GO_S, ASK_S)
    stage.follow()
    ledger = stage.simulator.ledger(entries=True)
    records = stage.records(item.uid for item in plan.items)
    story = Story(
        plan,
        events=list(stage.events),
        calls=[Call.of(entry) for entry in ledger["entries"]],
        polls_refused=ledger["polls_refused"],
        running_at_provider=ledger["in_flight"],
        records={item.id: records[item.uid] for item in plan.items},
        groups={gid: stage.redis.hgetall(f"pixmill:batch:{gid}") for gid in plan.batches},
        members={gid: set(stage.redis.zrange(f"pixmill:members:{gid}", 0, -1)) for gid in plan.batches},
        leases=stage.leases(),
        pending=stage.pending(),
        dead_names=_dead_names(stage),
        exit_codes=exit_codes,
    )
    root = stage.directory / "images"
    for item in plan.items:
        record = story.records[item.id]
        if record.get("state") == "succeeded":
            story.pictures[item.id] = _problem_of(root, json.loads(record["result"]))
    story.closed = _cancel_held(stage, plan, story)
    story.keys_forever = {key for key in stage.redis.scan_iter(count=1000) if stage.redis.ttl(key) == -1}
    return story


def _dead_names(stage: Stage) -> set[str]:
    return {name for name in stage.consumers() if not stage.fleet.is_named(name)}


def _problem_of(root: Path, result: Mapping[str, Any]) -> str:
    """The fault of a record's picture, by the bytes in the store; empty if it has none."""
    (image,) = result["images"]
    path = root / image["key"]
    if not path.exists():
        return f"there is no {image['key']}"
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != image["sha256"]:
        return f"{image['key']} is another picture than its record says"
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError as error:
        return f"{image['key']} cannot be read ({error})"
    return ""


def _cancel_held(stage: Stage, plan: Plan, story: Story) -> bool:
    """Cancel held items as an operator does, so that all work has ended and its keys have their TTL."""
    for item in plan.items:
        if story.records[item.id].get("state") == "held":
            stage.redis.xadd("pixmill:jobs", {"type": "pixmill.cancel.v1", "data": _cancel_of(item)})

    def closed() -> bool:
        keys = ("pixmill:active", "pixmill:closing", "pixmill:dirty", "pixmill:ended")
        return not stage.redis.exists(*keys) and not stage.redis.xlen("pixmill:jobs")

    return until(closed, LEASES_END_S)


def _cancel_of(item: Item) -> str:
    batch = {"batch": item.batch} if item.batch else {}
    return json.dumps({"tenant": item.tenant, "job": item.id, "statuses": ["held"], **batch})
