"""The strike at descriptors: replicas that may open few files, and meanwhile none at all.

A lack of the machine passes. No item pays for it with an attempt, no picture is condemned, and nothing is bought again.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.chaos.losses import (
    Loss,
    calls_by_item,
    no_writes,
    rest,
    send,
)
from benchmarks.chaos.plan import ROUTES, Item
from benchmarks.chaos.stage import Stage, until
from benchmarks.chaos.strikes import REPLICAS

LIMIT = 64
FEW_DESCRIPTORS = f"{LIMIT} descriptors"
MOST_ITEMS, LEAST_ITEMS = 260, 48
BEGUN = 8  # calls, when the last descriptor is taken
NONE = 3  # the standard streams have these; with fewer, poll() fails as it never does in the field
NONE_LEFT_S = 22.0  # longer than a lease, all tries of a download and the time limit of a task
SOON_S = 120.0  # the quotas alone need 20 s


def few_descriptors(directory: Path, items: int = MOST_ITEMS) -> Loss:
    """Strike a stage of its own: work under the limit, a time without any descriptor, at last the strike `no_writes`.

    A short run has fewer `items`.
    """
    place = directory / "few-descriptors"
    place.mkdir()
    stage = Stage(place, descriptors=LIMIT)
    try:
        for _ in range(REPLICAS):
            stage.fleet.start()
        for replica in stage.fleet.all:
            replica.command.wait_for("replica started", 300)
        loss = _none_left(stage, min(MOST_ITEMS, max(LEAST_ITEMS, items)))
        killed = no_writes(stage, FEW_DESCRIPTORS)
    finally:
        stage.close()
        for replica in stage.fleet.all:
            (place / f"{replica.name}.log").write_text(replica.command.output)
    loss.items += killed.items
    loss.safe = killed.safe
    loss.wrong += killed.wrong
    loss.disobeyed += killed.disobeyed
    loss.unknown = killed.unknown
    return loss


def harmed(
    items: Iterable[Item], records: Mapping[str, Mapping[str, str]], calls: Mapping[str, int]
) -> list[str]:
    """The items that lost an attempt or a picture to a lack of descriptors. Nobody died, so no outcome is unknown."""
    wrong = []
    for item in items:
        record = records[item.id]
        state = record.get("state", "without a record")
        if state != "succeeded":
            wrong.append(f"{item.id} is {state}: {record.get('error') or 'no reason is known'}")
        elif attempts := int(record.get("attempts", 0)):
            wrong.append(f"{item.id} lost {attempts} attempts: {record.get('error')}")
        elif (times := calls.get(item.id, 0)) != 1:
            wrong.append(f"{item.id} was bought {times} times")
    return wrong


def _none_left(stage: Stage, count: int) -> Loss:
    """Take all free descriptors from living replicas for a while. Everything must end well, and soon.

    That begins before the first picture is there, since a program may open files for its first one only.
    """
    items = send(stage, "few", ROUTES, count)
    if not until(lambda: len(calls_by_item(stage)) >= BEGUN, SOON_S):
        raise RuntimeError(f"too few calls were made with {LIMIT} descriptors")
    _allow(stage, NONE)
    time.sleep(NONE_LEFT_S)
    _allow(stage, LIMIT)
    records = rest(stage, items, SOON_S)
    return Loss(FEW_DESCRIPTORS, count, wrong=harmed(items, records, calls_by_item(stage)))


def _allow(stage: Stage, descriptors: int) -> None:
    """Let the replicas open files below this number; what they have open stays open. Only Linux can do that."""
    if hasattr(resource, "prlimit"):
        for replica in stage.fleet.alive:
            resource.prlimit(replica.pid, resource.RLIMIT_NOFILE, (descriptors, LIMIT))
