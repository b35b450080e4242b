"""The provider of the limiter benchmark: a process that enforces rules on arrival and writes every arrival down.

Run as ``python -m benchmarks.limiter.provider RULES_JSON``; it prints its port. The wire is a line of JSON each
way on connections that are kept, so that the benchmark measures limiters and not an HTTP stack. A call that was
admitted runs to its end whether or not its caller lives.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from bisect import insort
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from providers.simulator.arrivals import StampedSocket, stamp_s

IN_FLIGHT_RETRY_S = 0.2  # the Retry-After of a refusal for calls in flight: a guess, as real ones are


@dataclass(frozen=True)
class Rule:
    """At most `count` in any sliding `window_s` seconds, or, without a window, in flight.

    `unit` is requests or images; `models` None means all. From `then_at_s` after the start, `then_count` holds.
    """

    name: str
    count: int
    window_s: float | None = None
    unit: str = "requests"
    models: tuple[str, ...] | None = None
    then_at_s: float | None = None
    then_count: int | None = None


@dataclass(frozen=True)
class Refusal:
    """The first arrival from `at_s` on is refused, and so is everything for `retry_after_s` after it.

    A reply takes `reply_s`; the calls that arrive until the first one is back are refused too.
    """

    at_s: float
    retry_after_s: float
    reply_s: float = 0.0


@dataclass(frozen=True)
class Rules:
    """All rules hold together."""

    rules: tuple[Rule, ...]
    refusal: Refusal | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Rules:
        fields = json.loads(text)
        rules = tuple(Rule(**rule) for rule in fields["rules"])
        refusal = fields["refusal"]
        return cls(rules, None if refusal is None else Refusal(**refusal))


@dataclass(slots=True)
class Arrival:
    """One line of the ledger. Times are of the machine's monotonic clock; `rule` names the rule that refused it."""

    at_s: float
    job: int
    model: str
    n: int
    replica: int
    status: int = 200
    rule: str = ""
    ended_at_s: float | None = None


@dataclass
class Account:
    """The arrivals that the rules count."""

    rules: Rules
    started_at_s: float = 0.0
    closed_until_s: float = 0.0
    refused: bool = False
    running: int = 0
    ledger: list[Arrival] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._logs: dict[str, deque[tuple[float, int]]] = {rule.name: deque() for rule in self.rules.rules}

    def start(self, now_s: float) -> None:
        """The time from which rules that change count."""
        self.started_at_s = now_s

    def admit(self, arrival: Arrival) -> float | None:
        """None for an admitted call, else the seconds until the caller may return. Always notes the arrival."""
        self.ledger.append(arrival)
        wait_s = self._injected(arrival)
        for rule in self.rules.rules:
            if arrival.status == 200 and (rule.models is None or arrival.model in rule.models):
                wait_s = self._rule_wait_s(rule, arrival)
                if wait_s is not None:
                    arrival.status, arrival.rule = 429, rule.name
        if arrival.status != 200:
            return wait_s
        self.running += 1
        for rule in self.rules.rules:
            if rule.window_s is not None and (rule.models is None or arrival.model in rule.models):
                # An earlier arrival may be read later.
                insort(self._logs[rule.name], (arrival.at_s, _cost(rule, arrival)))
        return None

    def end(self, arrival: Arrival, now_s: float) -> None:
        """The call is over."""
        arrival.ended_at_s = now_s
        self.running -= 1

    def reply_s(self, arrival: Arrival) -> float:
        """How long the reply to a refused call takes."""
        refusal = self.rules.refusal
        return refusal.reply_s if refusal is not None and arrival.rule in ("injected", "closed") else 0.0

    def _injected(self, arrival: Arrival) -> float | None:
        refusal = self.rules.refusal
        if refusal is None or arrival.at_s < self.started_at_s + refusal.at_s:
            return None
        if not self.refused:
            self.refused, self.closed_until_s = True, arrival.at_s + refusal.retry_after_s
            arrival.status, arrival.rule = 429, "injected"
        elif arrival.at_s < self.closed_until_s:
            arrival.status, arrival.rule = 429, "closed"
        return self.closed_until_s - arrival.at_s

    def _rule_wait_s(self, rule: Rule, arrival: Arrival) -> float | None:
        now_s, count = arrival.at_s, rule.count
        if rule.then_at_s is not None and now_s >= self.started_at_s + rule.then_at_s:
            count = rule.then_count or 0
        if rule.window_s is None:
            return IN_FLIGHT_RETRY_S if self.running >= count else None
        log = self._logs[rule.name]
        while log and log[0][0] + rule.window_s <= now_s:
            log.popleft()
        excess = sum(cost for _, cost in log) + _cost(rule, arrival) - count
        if excess <= 0:
            return None
        for at_s, cost in log:
            excess -= cost
            if excess <= 0:
                return at_s + rule.window_s - now_s
        return rule.window_s


def _cost(rule: Rule, arrival: Arrival) -> int:
    return arrival.n if rule.unit == "images" else 1


class Connection(asyncio.Protocol):
    """One caller, or the rig itself. A call arrives when the kernel has its bytes, however late they are read."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._peer = transport.get_extra_info("peername")

    def data_received(self, data: bytes) -> None:
        stamp = stamp_s(self._peer)
        now_s = time.monotonic() if stamp is None else stamp
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            fields = json.loads(line)
            if "command" in fields:
                self._command(fields["command"])
            else:
                self._call(now_s, fields.pop("service_s"), fields)

    def _call(self, now_s: float, service_s: float, fields: dict[str, Any]) -> None:
        arrival = Arrival(now_s, **fields)
        retry_after_s = self._account.admit(arrival)
        if retry_after_s is not None:
            reply_s = self._account.reply_s(arrival)
            refusal = {"status": 429, "retry_after_s": retry_after_s}
            asyncio.get_running_loop().call_later(reply_s, self._answer, refusal)
            return
        asyncio.get_running_loop().call_later(service_s, self._finish, arrival)

    def _finish(self, arrival: Arrival) -> None:
        self._account.end(arrival, time.monotonic())
        self._answer({"status": 200})

    def _command(self, command: str) -> None:
        if command == "start":
            self._account.start(time.monotonic())
        ledger = self._account.ledger if command == "ledger" else []
        self._answer({"running": self._account.running, "ledger": [asdict(arrival) for arrival in ledger]})

    def _answer(self, document: dict[str, Any]) -> None:
        if not self._transport.is_closing():
            self._transport.write(json.dumps(document).encode() + b"\n")


async def serve(rules: Rules) -> None:
    """Listen on a free port until the rig ends this process."""
    account = Account(rules)
    listener = StampedSocket()
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(account), sock=listener)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    # Not uvloop, which reads without stamps.
    asyncio.run(serve(Rules.from_json(sys.argv[1])))
