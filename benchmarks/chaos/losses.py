"""Three strikes at the memory of paid calls: Redis loses a second, takes no writes, or the store's clock is slow.

Each has a batch of its own without faults, so each second call has one cause. The other invariants count events, which
Redis loses here as well.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from benchmarks.chaos.plan import ROUTES, TASK_ROUTES, Entry, Item
from benchmarks.chaos.stage import FINAL, Stage, until
from benchmarks.chaos.strikes import REPLICAS
from tests.object_stores import S3, Front

LOST_SECOND = "redis loses its last second"
NO_WRITES = "no writes, then SIGKILL"
SLOW_CLOCK = "store clock off by 30 s"
BEHIND = timedelta(seconds=30)
TENANT = "losses"
POLICIES = ("retry_once", "hold", "fail")
ITEMS = 48
STORED_FIRST = 8
LATE = 8
WAIT_S = 90.0
POLLED_S = 40.0


class Row(NamedTuple):
    """A line of the report; it holds if `broken` is empty."""

    name: str
    text: str
    broken: list[str]


@dataclass
class Loss:
    """The result of a strike. It holds if its three lists of sentences are empty; the rest is what policies allow."""

    strike: str
    items: int
    safe: int = 0  # whose picture lay in the store at the strike
    wrong: list[str] = field(default_factory=list)  # did not end, or were known and bought again
    unknown: dict[str, int] = field(default_factory=dict)  # outcomes that nobody can know, by what followed
    disobeyed: list[str] = field(default_factory=list)  # were bought again against `on_unknown_outcome`
    never_accepted: list[str] | None = None  # lost with their entry; None where a strike loses none
    not_made: list[str] = field(default_factory=list)  # of these, sent again by their producer

    @property
    def held(self) -> bool:
        return not any(row.broken for row in self.rows())

    def rows(self) -> list[Row]:
        """The lines of the report."""
        followed = ", ".join(f"{count} {what}" for what, count in sorted(self.unknown.items())) or "none"
        rows = [
            Row(
                self.strike,
                f"{len(self.wrong)} wrong of {self.items} items; {self.safe} lay in the store",
                self.wrong,
            ),
            Row(
                "- unknown outcomes",
                f"{len(self.disobeyed)} against the job's word; {followed}",
                self.disobeyed,
            ),
        ]
        if (lost := self.never_accepted) is not None:
            names = f": {', '.join(lost)}" if lost else ""
            text = f"{len(self.not_made)} not made when sent again; {len(lost)} lost{names}"
            rows.append(Row("- jobs lost with their entry", text, self.not_made))
        return rows


def losses(stage: Stage, directory: Path) -> list[Loss]:
    """Strike three times. The replicas of `stage` run again afterwards; the third strike has a stage of its own."""
    struck = [lost_second(stage), no_writes(stage, NO_WRITES)]
    return [*struck, slow_clock(directory)]


def lost_second(stage: Stage) -> Loss:
    """Kill Redis, and cut a second off its file, with the jobs that were accepted in it. The replicas go on."""
    items = send(stage, "second", ROUTES)
    if not until(lambda: len(stored_of(stage, items)) >= STORED_FIRST, WAIT_S):
        raise RuntimeError("too few items ended before Redis was to lose its last second")
    kept = stage.server.written
    late = send(stage, "late", ROUTES, LATE)
    if not until(lambda: all(stage.records(item.uid for item in late).values()), WAIT_S):
        raise RuntimeError("the jobs that Redis was to lose were not accepted")
    time.sleep(1.0)
    stored = stored_of(stage, items)
    stage.server.lose(kept)
    lost = [item for item in late if not _comes(stage, item)]
    items += [item for item in late if item not in lost]
    loss = judged(LOST_SECOND, items, stored, rest(stage, items), calls_by_item(stage), tasks_known=True)
    loss.never_accepted = [item.id for item in lost]
    if lost:
        loss.not_made = _sent_again(stage, lost)
    return loss


def no_writes(stage: Stage, strike: str) -> Loss:
    """Let Redis refuse writes while calls run; kill all replicas once their pictures could be stored."""
    items = send(stage, strike.split()[0], ROUTES)
    if not until(
        lambda: len(calls_by_item(stage).keys() & {item.id for item in items}) >= STORED_FIRST, WAIT_S
    ):
        raise RuntimeError(f"too few calls were made before {strike}")
    stage.redis.config_set("min-replicas-to-write", 1)
    called = {item.id for item in items} & calls_by_item(stage).keys()
    until(lambda: stage.simulator.ledger()["in_flight"] == 0, WAIT_S)
    # Polls go on at a part of their limits.
    until(lambda: called <= stored_of(stage, items), POLLED_S)
    stored = stored_of(stage, items)
    for replica in stage.fleet.alive:
        replica.kill()
    stage.redis.config_set("min-replicas-to-write", 0)
    for _ in range(REPLICAS):
        stage.fleet.start()
    loss = judged(strike, items, stored, rest(stage, items), calls_by_item(stage), tasks_known=False)
    loss.wrong += [f"{name} was answered and is not in the store" for name in sorted(called - stored)]
    return loss


def slow_clock(directory: Path) -> Loss:
    """The strike `no_writes` on a bucket whose dates are 30 s behind."""
    import moto.s3.models
    from moto.core.utils import utcnow

    moto.s3.models.utcnow = lambda: utcnow() - BEHIND  # type: ignore[attr-defined]  # of a module without types
    bucket = S3()
    bucket.bucket("chaos")
    front = Front(bucket.port)
    front.port = bucket.port  # there is no front, only its environment
    place = directory / "slow-clock"
    place.mkdir()
    stage = Stage(place, store="s3://chaos/images", environ=front.environ)
    try:
        stage.stored = lambda: _keys(bucket.port)  # type: ignore[method-assign]  # it is no directory
        for _ in range(REPLICAS):
            stage.fleet.start().command.wait_for("replica started", 300)
        return no_writes(stage, SLOW_CLOCK)
    finally:
        stage.close()
        bucket.close()
        moto.s3.models.utcnow = utcnow  # type: ignore[attr-defined]  # as above


def judged(
    strike: str,
    items: Sequence[Item],
    stored: set[str],
    records: Mapping[str, Mapping[str, str]],
    calls: Mapping[str, int],
    *,
    tasks_known: bool,
) -> Loss:
    """Compare the calls with what was known at the strike.

    `stored`: items whose picture lay in the store; `tasks_known`: the workers live, so they know their tasks.
    """
    loss = Loss(strike, len(items), len(stored))
    unknown: Counter[str] = Counter()
    for item in items:
        state = records[item.id].get("state", "without a record")
        again = calls.get(item.id, 0) - 1
        if state not in (*FINAL, "held"):
            loss.wrong.append(f"{item.id} is {state}")
        if item.id in stored and (again > 0 or state != "succeeded"):
            loss.wrong.append(f"{item.id} lay in the store, is {state}, and was bought {again} times more")
        elif again > 0 and tasks_known and item.route in TASK_ROUTES:
            loss.wrong.append(f"{item.id} was bought {again} times more although its worker knew its task")
        elif again > (1 if item.policy == "retry_once" else 0):
            loss.disobeyed.append(f"{item.id} ({item.policy}) was bought {again} times more")
        elif again > 0 or state in ("held", "failed"):
            unknown[f"{item.policy}: " + ("bought again" if again > 0 else state)] += 1
    loss.unknown = dict(unknown)
    return loss


def send(stage: Stage, name: str, routes: Sequence[str], count: int = ITEMS) -> list[Item]:
    items = [
        Item(
            f"{name}-{k:02}",
            TENANT,
            name,
            routes[k % len(routes)],
            POLICIES[k // len(routes) % 3],
            "normal",
            None,
        )
        for k in range(count)
    ]
    defaults = {"size": "512x512", "output": {"thumbnail": False}}
    fields: dict[str, Any] = {"id": name, "tenant": TENANT, "defaults": defaults}
    stage.send(Entry("pixmill.batch.v1", {**fields, "items": [item.fields() for item in items]}))
    return items


def stored_of(stage: Stage, items: Iterable[Item]) -> set[str]:
    return stage.stored() & {item.id for item in items}


def _keys(port: int) -> set[str]:
    with urlopen(f"http://127.0.0.1:{port}/chaos?list-type=2") as answer:
        return {Path(key).stem for key in re.findall("<Key>([^<]+)</Key>", answer.read().decode())}


def calls_by_item(stage: Stage) -> Counter[str]:
    """The admitted calls by item."""
    prompts = [
        entry["prompt"] for entry in stage.simulator.ledger(entries=True)["entries"] if entry["admitted"]
    ]
    return Counter(prompt.partition(", ")[2].rstrip(".") for prompt in prompts)


def _comes(stage: Stage, item: Item) -> bool:
    """Whether Redis still has this item, or its entry."""
    waits = any(item.id in json.dumps(fields) for _, fields in stage.redis.xrange("pixmill:jobs"))
    return waits or any(stage.records([item.uid]).values())


def _sent_again(stage: Stage, lost: Sequence[Item]) -> list[str]:
    """Send lost jobs again, as their producer does; returns what is wrong with them in the end.

    Nobody knows of their former calls, so only the later ones count.
    """
    before = calls_by_item(stage)
    again = send(stage, lost[0].batch, ROUTES, LATE)
    records = rest(stage, again)
    later = calls_by_item(stage) - before
    judgement = judged(LOST_SECOND, again, set(), records, later, tasks_known=False)
    return judgement.wrong + judgement.disobeyed


def rest(stage: Stage, items: Sequence[Item], longest_s: float = WAIT_S) -> dict[str, dict[str, str]]:
    """The records once every item has ended or is held, or time is over."""

    def records() -> dict[str, dict[str, str]]:
        found = stage.records(item.uid for item in items)
        return {item.id: found[item.uid] for item in items}

    until(lambda: all(r.get("state") in (*FINAL, "held") for r in records().values()), longest_s, 0.2)
    return records()
