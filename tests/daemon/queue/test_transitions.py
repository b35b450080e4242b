"""The page, the table and the scripts agree on the moves; every other pair of state and action changes nothing."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from redis.asyncio import Redis

import daemon.queue.steps
from daemon.queue.messages import Claimed, LeaseLost
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
from pixmill.contract import FINAL_STATES
from pixmill.contract.event_types import BatchState, ItemState
from tests.daemon.harness import Installation
from tests.daemon.queue.queue_reading import read_all
from tests.daemon.virtual_time import VirtualTime, use_virtual_time

SCRIPTS = Path(daemon.queue.steps.__file__).parent / "scripts"
PAGE = (Path(__file__).parents[3] / "docs" / "state-machine.md").read_text("utf-8")
ERROR = {"kind": "provider_fault", "message": "The provider failed.", "charged": "no", "retryable": True}

Moves = set[tuple[str, str, str]]


async def tables(redis: Redis) -> tuple[Moves, Moves]:
    """Cause, state before and state after, of items and of groups, as the scripts have them."""
    client: Any = redis
    source = (SCRIPTS / "include" / "transitions.lua").read_text("utf-8")
    found = orjson.loads(
        await client.eval(f"{source}\nreturn cjson.encode({{ TRANSITIONS, GROUP_TRANSITIONS }})", 0)
    )
    item, group = (
        {(cause, before, after) for cause, moves in table.items() for before, after in moves.items()}
        for table in found
    )
    return item, group


def drawn(page: str) -> list[Moves]:
    """The transitions of each diagram of the page."""
    arrow = re.compile(r"^\s*(\S+) --> (\S+) : (\w+)$", re.MULTILINE)
    return [
        {(cause, before.replace("[*]", "new"), after) for before, after, cause in arrow.findall(diagram)}
        for diagram in re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", page, re.DOTALL)
    ]


async def test_the_page_draws_exactly_the_transitions_of_the_table(redis: Redis) -> None:
    item, group = await tables(redis)
    assert drawn(PAGE) == [item, group]


async def test_the_page_names_the_scripts_of_every_cause() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE)
    named = {cause: set(re.findall(r"`(\w+)`", scripts)) for cause, scripts in rows}
    takes = re.compile(
        r"\b(?:next_state|move|finish_item|finish_idle|requeue|fail|fail_for_good|try_again)\([^'\n]*'(\w+)'"
    )
    used: dict[str, set[str]] = {}
    includes = {*(SCRIPTS / "include").glob("*.lua")} - {SCRIPTS / "include" / "claiming.lua"}
    for script in {*SCRIPTS.rglob("*.lua")} - includes:
        for cause in takes.findall(script.read_text("utf-8")):
            used.setdefault(cause, set()).add(script.stem)
    assert named == used


async def test_every_state_is_one_of_the_contract(redis: Redis) -> None:
    item, group = await tables(redis)
    views = {"retry_wait", "throttled"}
    assert {after for _, _, after in item} == {*get_args(ItemState), *views}
    assert {after for _, _, after in group} == set(get_args(BatchState))
    asked_for = {"retry_order"}
    assert {before for cause, before, _ in item if cause not in asked_for} & FINAL_STATES == set()
    assert "succeeded" not in {before for _, before, _ in item}


def test_scripts_take_every_state_from_the_table() -> None:
    for script in SCRIPTS.rglob("*.lua"):
        for line in script.read_text("utf-8").splitlines():
            assert not re.search(r"\bstate = '|'HSET'.*'state', '", line), f"{script.name}: {line}"


# Every state, and how an item comes into it. Each way begins with an item that a worker has claimed once, so the
# worker's handle has the item's present epoch, and only the state can refuse it.

Rig = tuple[Installation, VirtualTime]
LATER_S, EXPIRES_S = 2.0, 60.0
NAME, STREAM_LANE = "default/b1/i0", "normal"


async def _settled(rig: Rig, outcome: Outcome) -> Claimed:
    installation, time = rig
    await installation.batch("b1", 1, defaults={"prompt": "x", "expires_at": time.at(EXPIRES_S)})
    (item,) = await installation.claim()
    await installation.queue.settle(item, outcome)
    return item


async def _running(rig: Rig) -> Claimed:
    await _settled(rig, Released())
    (item,) = await rig[0].claim()
    return item


async def _cancelled(rig: Rig) -> Claimed:
    item = await _settled(rig, Released())
    await rig[0].orders.cancel("item", NAME, ["queued"])
    return item


async def _expired(rig: Rig) -> Claimed:
    item = await _settled(rig, Released())
    await rig[1].advance(round(EXPIRES_S * 1e6))
    await rig[0].queue.due()
    return item


STATES: dict[str, Callable[[Rig], Awaitable[Claimed]]] = {
    "queued": lambda rig: _settled(rig, Released()),
    "retry_wait": lambda rig: _settled(rig, Retry(ERROR, LATER_S)),
    "throttled": lambda rig: _settled(rig, Throttled(ERROR, LATER_S)),
    "running": _running,
    "held": lambda rig: _settled(rig, Held(ERROR)),
    "succeeded": lambda rig: _settled(rig, Succeeded({"images": []})),
    "failed": lambda rig: _settled(rig, Failed(ERROR)),
    "cancelled": _cancelled,
    "expired": _expired,
}


# Every action, and its cause in the table. Some actions reach an item only by a mistake elsewhere, so the test makes
# that mistake: a stale entry in the ring, a name among those that are due.


async def _claim(rig: Rig, item: Claimed) -> None:
    installation, time = rig
    await time.advance(round(LATER_S * 1e6))
    await installation.queue.due()
    ring = installation.keys.ring("default", STREAM_LANE)
    if not await installation.redis.exists(ring):
        await installation.redis.xadd(installation.keys.stream("default", STREAM_LANE), {"u": NAME})
        await installation.redis.hset(ring, "default", NAME)
    await installation.claim(5)


async def _expire(rig: Rig, item: Claimed) -> None:
    installation, time = rig
    await installation.redis.zadd(installation.keys.expiring, {NAME: time.now_us})
    await time.advance(1)
    await installation.queue.due()


async def _come_due(rig: Rig, item: Claimed) -> None:
    installation, time = rig
    await installation.redis.zadd(installation.keys.delayed, {NAME: time.now_us})
    await installation.queue.due()


async def _cancel(rig: Rig, item: Claimed) -> None:
    every_state = [*STATES]
    await rig[0].orders.cancel("item", NAME, every_state)


async def _retry(rig: Rig, item: Claimed) -> None:
    await rig[0].orders.retry("item", NAME, [*STATES])


async def _reclaim(rig: Rig, item: Claimed, most_crashes: int = 5) -> None:
    await rig[0].queue.reclaim("default", STREAM_LANE, lease_s=0, cursor="0-0", most_crashes=most_crashes)


async def _note(rig: Rig, item: Claimed) -> None:
    try:
        await rig[0].queue.note_intent(item)
    except LeaseLost:
        return
    assert (await rig[0].record(NAME))["state"] == "running"


async def _renew(rig: Rig, item: Claimed) -> None:
    (answer,) = await rig[0].queue.renew([item])
    assert (answer == "ours") == ((await rig[0].record(NAME))["state"] == "running")


def _settle(outcome: Outcome) -> Callable[[Rig, Claimed], Awaitable[None]]:
    async def settle(rig: Rig, item: Claimed) -> None:
        await rig[0].queue.settle(item, outcome)

    return settle


ACTIONS: dict[str, tuple[str | None, Callable[[Rig, Claimed], Awaitable[None]]]] = {
    "claim": ("claimed", _claim),
    "expire": ("expired", _expire),
    "come due": (None, _come_due),
    "cancel": ("cancel_order", _cancel),
    "retry": ("retry_order", _retry),
    "reclaim": ("reclaimed", _reclaim),
    "give up": ("poison", lambda rig, item: _reclaim(rig, item, most_crashes=0)),
    "note": (None, _note),
    "renew": (None, _renew),
    **{
        f"settle as {outcome.name}": (outcome.name, _settle(outcome))
        for outcome in (
            *(Succeeded({"images": []}), Failed(ERROR), Cancelled(), Held(ERROR), Released()),
            *(Throttled(ERROR, 5), Retry(ERROR, 5), Unknown(ERROR)),
        )
    },
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", ACTIONS)
async def test_a_move_outside_of_the_table_changes_nothing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, state: str, action: str
) -> None:
    use_virtual_time(monkeypatch)
    rig = installation, time = Installation(redis), VirtualTime(redis)
    await time.advance()
    item = await STATES[state](rig)
    assert (before := await _visible(installation))["state"] == state

    cause, act = ACTIONS[action]
    await act(rig, item)

    moves = {before: after for known, before, after in (await tables(redis))[0] if known == cause}
    after = await _visible(installation)
    assert after["state"] == moves.get(state, state)
    # A running item can also be noted, renewed and requested to stop; nothing else may change.
    if state not in moves and not (state == "running" and cause in {None, "cancel_order"}):
        assert after == before
    counts = {name: int(count) for name, count in after["group"].items() if name in STATES and int(count)}
    assert counts == {after["state"]: 1}


async def _visible(installation: Installation) -> dict[str, Any]:
    """All visible data of the item."""
    reading = await read_all(installation.redis, installation.keys)
    record = {name: value for name, value in reading.records[NAME].items() if name != "tombstone"}
    return {
        "state": record["state"],
        "record": record,
        "group": reading.groups["default/b1"],
        "events": reading.events,
        "dead": reading.dead,
        "depth": reading.depth,
        "ended": reading.ended,
    }
