"""Calls the queue's scripts: by name, and many calls in one round trip.

Each script is one atomic step in the folder `scripts`; its first key is the prefix.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson
from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Missed, Outcome, Succeeded
from limiter.script import INCLUDES, LuaScript

T = TypeVar("T")
R = TypeVar("R")

LATE_S = 0.05  # for rounds of those who wait for an answer
# Items a call. One script takes about a millisecond, and the server works on one call while we read another's reply.
MOST = 32

_SCRIPTS_DIR = Path(__file__).parent / "scripts"
_SCRIPTS = {
    path.stem: LuaScript.load(_SCRIPTS_DIR, f"{path.parent.name}/{path.stem}", INCLUDES)
    for path in _SCRIPTS_DIR.glob("*/*.lua")
    if path.parent.name != "include"
}


class Steps:
    """Calls a script by its name. Errors: those of the Redis client; nothing is sent twice."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def __call__(self, script: str, *raw: str | bytes, **arguments: Any) -> Any:
        """Returns the reply that the script's header describes. Arguments of None are left out; `raw` may be binary."""
        return await self.run(script, (), raw, arguments)

    async def run(
        self, script: str, keys: Sequence[str], raw: Sequence[str | bytes | int], arguments: Mapping[str, Any]
    ) -> Any:
        """As a call, for a script with `keys` after the prefix."""
        given = {name: value for name, value in arguments.items() if value is not None}
        text = orjson.dumps(given, default=bytes.decode)
        return await _SCRIPTS[script](self._client, [self._prefix, *keys], [text, *raw])


def report_of(item: Claimed, outcome: Outcome, charged: str) -> dict[str, Any]:
    """An outcome as the arguments of settle.lua."""
    report: dict[str, Any] = {"uid": item.uid, "epoch": item.epoch, "outcome": outcome.name}
    if charged:
        report["charged"] = charged
    match outcome:
        case Succeeded(result):
            report |= {"result": orjson.dumps(result), **_cost(result)}
        case Missed(entry):
            report["entry"] = entry
        case _ if hasattr(outcome, "error"):
            report |= {"error": orjson.dumps(outcome.error), **_cost(outcome.error)}
            report["delay_us"] = round(getattr(outcome, "delay_s", 0.0) * 1e6)
    return report


def _cost(said: Mapping[str, Any]) -> dict[str, str]:
    """The cost of a call, as its result or error names it."""
    cost = said.get("cost")
    return {"cost": cost["amount"], "currency": cost["currency"]} if cost else {}


class GroupCommit(Generic[T, R]):
    """Turns `send(items) -> results` (same order, same length) into `await submit(item) -> result`.

    Calls that arrive while another one is on the wire share the next round trip. A lone call does not wait.
    With `late_s`, a round that takes longer is late, and the next one begins beside it: an outage, which each caller
    must hear of in time, delays nobody twice.
    An error of `send` reaches every caller of that round. Cancelling one caller does not stop the round.
    """

    def __init__(
        self,
        send: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        most: int = MOST,
        late_s: float | None = None,
    ) -> None:
        self._send = send
        self._most = most
        self._late_s = late_s
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._rounds: set[asyncio.Task[None]] = set()

    async def submit(self, item: T) -> R:
        """Send one item with the next round; returns its result."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._run(), name="group commit")
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                round_, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                if self._late_s is None:
                    await self._send_round(round_)
                else:
                    sending = asyncio.create_task(self._send_round(round_), name="group commit, round")
                    self._rounds.add(sending)
                    sending.add_done_callback(self._rounds.discard)
                    await asyncio.wait([sending], timeout=self._late_s)
        finally:
            self._sender = None

    async def _send_round(self, round_: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._send([item for item, _ in round_])
        except BaseException as error:
            for _, future in round_:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), result in zip(round_, results, strict=True):
            if not future.done():
                future.set_result(result)
