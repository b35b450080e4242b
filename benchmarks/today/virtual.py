"""Runs a strategy on an account in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import deque

import redis

from benchmarks.today.account import VirtualAccount
from benchmarks.today.fleet import PREFIX, Fleet, Item
from benchmarks.today.outcome import Made, Outcome
from benchmarks.today.strategies import STRATEGIES, Script, Strategy
from benchmarks.today.terms import Batch, Terms
from benchmarks.today.valkey import Valkey
from benchmarks.today.virtual_time import VirtualTimeLoop


def run(name: str, terms: Terms, seed: int, server_url: str, *, bad_day: bool) -> Outcome:
    """One batch of a strategy. On a bad day a process is killed in the middle of it."""
    batch = Batch.of(terms, seed, bad_day=bad_day)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        made, account = runner.run(_batch(STRATEGIES[name], batch, seed, server_url, bad_day))
    return Outcome(
        account=terms.name,
        strategy=name,
        bad_day=bad_day,
        seed=seed,
        pictures=terms.pictures,
        made=len(made.pictures),
        refused=account.refused,
        paid=account.paid,
        makespan_s=made.last_s,
        optimum_s=batch.optimum_s,
        in_order_s=batch.in_order_s,
    )


async def _batch(
    strategy: Strategy, batch: Batch, seed: int, server_url: str, bad_day: bool
) -> tuple[Made, VirtualAccount]:
    dice = random.Random(seed)
    made, account = Made(batch.terms.pictures), VirtualAccount(batch, dice)
    if strategy.run is None:
        await _by_pixmill(strategy, batch.terms, account, made, server_url, bad_day)
    else:
        await _by_scripts(strategy, batch.terms, account, made, dice, bad_day)
    return made, account


async def _by_scripts(
    strategy: Strategy, terms: Terms, account: VirtualAccount, made: Made, dice: random.Random, bad_day: bool
) -> None:
    assert strategy.run is not None
    script = Script(terms, account, made.note, dice)
    processes = [
        asyncio.ensure_future(strategy.run(script, strategy.share(number, terms.pictures)))
        for number in range(strategy.processes)
    ]
    if bad_day:
        await _middle(made, terms)
        processes[0].cancel()
    await asyncio.wait(processes)
    for process in processes:
        if not process.cancelled():
            process.result()


async def _by_pixmill(
    strategy: Strategy, terms: Terms, account: VirtualAccount, made: Made, server_url: str, bad_day: bool
) -> None:
    with redis.Redis.from_url(server_url) as client:
        client.flushall()
    server = Valkey(server_url, PREFIX)
    try:
        async with asyncio.TaskGroup() as work:
            queue = deque(map(Item, range(terms.pictures)))
            fleet = Fleet(terms, account, made.note, server, queue, work)
            fleet.start(strategy.processes)
            if bad_day:
                await _middle(made, terms)
                await fleet.kill(0)
            await made.all.wait()
            fleet.end()
    finally:
        server.close()


async def _middle(made: Made, terms: Terms) -> None:
    await made.half.wait()
    await asyncio.sleep(terms.kill_after_s)
