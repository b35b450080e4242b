"""Arrivals count from when the kernel received them, even if the simulator's own loop reads them late."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from typing import NamedTuple

import pytest

from providers.simulator import Simulator, SimulatorSettings
from providers.simulator.quotas import SlidingWindow
from providers.simulator.settings import Rate

BODY = b'{"model":"sim-1","prompt":"x"}'
HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
STOOD_STILL_S = 0.3
CLOCKS_APART_S = 0.005  # stamps come from another clock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what it receives")


class Sent(NamedTuple):
    """The times just before and just after a call was sent."""

    after_s: float
    before_s: float


class Sender(threading.Thread):
    """Sends calls by itself, at least `apart_s` apart, while the simulator's event loop stands still."""

    def __init__(self, port: int, calls: int, apart_s: float) -> None:
        super().__init__()
        self.apart_s = apart_s
        self.sent: list[Sent] = []
        self.connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(calls)]

    def run(self) -> None:
        for connection in self.connections:
            if self.sent:
                time.sleep(max(0.0, self.sent[-1].before_s + self.apart_s - time.monotonic()))
            after_s = time.monotonic()
            connection.sendall(REQUEST)
            self.sent.append(Sent(after_s, time.monotonic()))


async def standing_still(
    simulator: Simulator, *, calls: int, apart_s: float, accepted: bool = True
) -> list[Sent]:
    """Let calls come while the loop does nothing; returns when each was sent.

    If `accepted`, the simulator has accepted their connections before.
    """
    sender = Sender(simulator.port, calls, apart_s)
    if accepted:
        await asyncio.sleep(0.05)
    sender.start()
    sender.join()
    time.sleep(STOOD_STILL_S)  # noqa: ASYNC251 - the point of it
    async with asyncio.timeout(10):
        while len(simulator.ledger.calls) < calls or any(not call.status for call in simulator.ledger.calls):
            await asyncio.sleep(0.01)
    for connection in sender.connections:
        connection.close()
    return sender.sent


@pytest.fixture
def settings() -> SimulatorSettings:
    return SimulatorSettings(images=Rate(1, 0.5), latency_s=(0.0, 0.0), plain=True)


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted before", "accepted later"])
async def test_a_call_arrives_when_it_is_sent_and_not_when_the_loop_reads_it(
    settings: SimulatorSettings, accepted: bool
) -> None:
    async with Simulator(settings) as simulator:
        (sent,) = await standing_still(simulator, calls=1, apart_s=0, accepted=accepted)
        (call,) = simulator.ledger.calls
    assert sent.after_s - CLOCKS_APART_S <= call.at_s <= sent.before_s + CLOCKS_APART_S
    assert call.handled_at_s >= sent.before_s + STOOD_STILL_S, "the simulator's own lateness is known"


async def test_calls_that_kept_their_distance_are_let_in_if_read_together(
    settings: SimulatorSettings,
) -> None:
    async with Simulator(settings) as simulator:
        await standing_still(simulator, calls=3, apart_s=0.5 + CLOCKS_APART_S)
        assert simulator.ledger.statuses() == {200: 3}


async def test_another_clock_ignores_the_stamps(settings: SimulatorSettings) -> None:
    async with Simulator(settings, clock=lambda: 7.0) as simulator:
        await standing_still(simulator, calls=1, apart_s=0)
        assert simulator.ledger.calls[0].at_s == 7.0


def test_an_earlier_arrival_that_is_handled_later_counts_at_its_own_time() -> None:
    sliding = SlidingWindow(Rate(2, 10))
    sliding.add(5.0, 1)
    sliding.add(3.0, 1)
    assert sliding.wait_s(6.0, 1) == 7.0, "until the earlier one is out"
