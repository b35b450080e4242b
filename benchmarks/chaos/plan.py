"""The plan of a run: the work and the provider's faults. The same seed makes the same plan."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.simulator.faults import FaultKind

ROUTES = ("zimage", "hunyuan", "openai", "openrouter")
TASK_ROUTES = frozenset({"zimage", "hunyuan"})
TENANTS = ("anna", "bert", "cleo", "dora")
POLICIES = ("retry_once", "retry_once", "hold", "fail")
LANES = ("normal", "normal", "normal", "high", "low")

FAULT_SHARE = 0.2  # of the items; each kind then hits a hundredth of its route's
SINGLE_SHARE = 0.15  # of the entries are jobs of their own
TWICE_SHARE = 0.05  # of the entries are sent twice, as by a producer that lost its answer
CAPPED_SIZE = 12  # a batch this small may lower its own concurrency without a longer run

ANY = (
    {"kind": FaultKind.RATE_LIMIT, "retry_after_s": 1.0},
    {"kind": FaultKind.RATE_LIMIT},
    {"kind": FaultKind.OVERLOADED},
    {"kind": FaultKind.SERVER_ERROR},
    {"kind": FaultKind.BAD_GATEWAY},
    {"kind": FaultKind.HANG},
    {"kind": FaultKind.DROP},
    {"kind": FaultKind.TRUNCATE},
    {"kind": FaultKind.EMPTY},
    {"kind": FaultKind.WRONG_TYPE},
    {"kind": FaultKind.NOT_A_PICTURE},
    {"kind": FaultKind.MODERATION},
)
OF_ONE_CALL = ({"kind": FaultKind.ERROR_INSIDE}, {"kind": FaultKind.WITHHELD})
OF_TASKS = (
    {"kind": FaultKind.TASK_FAILED},
    {"kind": FaultKind.TASK_MODERATED},
    {"kind": FaultKind.TASK_LOST},
    {"kind": FaultKind.URL_EXPIRED},
    {"kind": FaultKind.SLOW_POLL, "delay_s": 1.5},
    {"kind": FaultKind.SERVER_ERROR, "polls": True},
)
# The provider itself reports that this task has no picture, so the item may be bought again.
SPOILT = frozenset(
    {FaultKind.TASK_FAILED, FaultKind.TASK_MODERATED, FaultKind.TASK_LOST, FaultKind.NOT_A_PICTURE}
)
# The call is charged, and its answer has no picture.
PAID_IN_VAIN = SPOILT | {FaultKind.EMPTY, FaultKind.WITHHELD, FaultKind.URL_EXPIRED}


@dataclass(frozen=True, slots=True)
class Item:
    """One ordered picture. Its id is unique in the run and ends its prompt, so the simulator knows it."""

    id: str
    tenant: str
    batch: str  # '' for a job of its own
    route: str
    policy: str
    lane: str
    fault: Mapping[str, Any] | None

    @property
    def uid(self) -> str:
        return f"{self.tenant}/{self.batch}/{self.id}"

    @property
    def prompt(self) -> str:
        return f"a kettle, {self.id}."

    @property
    def fault_kind(self) -> FaultKind | None:
        return None if self.fault is None or self.fault.get("polls") else self.fault["kind"]

    @property
    def spoilt(self) -> bool:
        """Whether the provider spoils its first task. Hunyuan's dead addresses stay dead."""
        dead = self.fault_kind is FaultKind.URL_EXPIRED and self.route == "hunyuan"
        return dead or self.fault_kind in SPOILT

    def fields(self) -> dict[str, Any]:
        """The job's fields, as a producer sends them."""
        return {
            "id": self.id,
            "route": self.route,
            "prompt": self.prompt,
            "priority": self.lane,
            "on_unknown_outcome": self.policy,
        }


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the stream."""

    type: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan."""

    seed: int
    items: tuple[Item, ...]
    entries: tuple[Entry, ...]
    batches: Mapping[str, int] = field(default_factory=dict)  # members by gid

    def faults(self) -> Iterator[dict[str, Any]]:
        """The faults in the simulator's form: each for the first call of one item that it fits."""
        for item in self.items:
            if item.fault is not None:
                yield {**item.fault, "prompt": f"{item.id}."}


def make_plan(items: int, seed: int) -> Plan:
    """`items` items over all routes and tenants, in batches of several sizes and as single jobs."""
    draw = random.Random(seed)
    planned: list[Item] = []
    entries: list[Entry] = []
    batches: dict[str, int] = {}
    while len(planned) < items:
        tenant = draw.choice(TENANTS)
        if draw.random() < SINGLE_SHARE:
            item = _item(draw, len(planned), tenant, "")
            planned.append(item)
            entries.append(Entry("pixmill.job.v1", _defaults() | item.fields() | {"tenant": tenant}))
            continue
        size = min(draw.choice((4, CAPPED_SIZE, 30, max(4, items // 8))), items - len(planned))
        batch = f"b{len(batches)}"
        members = [_item(draw, len(planned) + number, tenant, batch) for number in range(size)]
        planned += members
        batches[f"{tenant}/{batch}"] = size
        cap = {"max_in_flight": draw.randint(2, 5)} if size <= CAPPED_SIZE and draw.random() < 0.5 else {}
        fields = [item.fields() for item in members]
        payload = {"id": batch, "tenant": tenant, "defaults": _defaults(), "items": fields, **cap}
        entries.append(Entry("pixmill.batch.v1", payload))
    draw.shuffle(entries)
    twice = [entry for entry in entries if draw.random() < TWICE_SHARE]
    return Plan(seed, tuple(planned), (*entries, *twice), batches)


def _defaults() -> dict[str, Any]:
    return {"size": "512x512", "output": {"thumbnail": False}}


def _item(draw: random.Random, number: int, tenant: str, batch: str) -> Item:
    route = draw.choice(ROUTES)
    kinds = ANY + (OF_TASKS if route in TASK_ROUTES else OF_ONE_CALL)
    fault = draw.choice(kinds) if draw.random() < FAULT_SHARE else None
    policy, lane = draw.choice(POLICIES), draw.choice(LANES)
    return Item(f"i{number:05}", tenant, batch, route, policy, lane, fault)
