"""The search for a connection among the addresses of a host stays within its time, and gives each its chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import httpx2
import pytest

from providers.http.exchange import CONNECT_S, MOST_ADDRESSES, NETWORK_FAULTS, exchange, first_answer

Behaviour = Callable[[float], float]  # the seconds that an address takes to fail, by the time it is given


class Network(httpx2.AsyncBaseTransport):
    """Addresses that fail one after another, on a clock of its own; the last one answers if `good`."""

    def __init__(self, behaviours: Sequence[Behaviour], *, good: bool = False) -> None:
        self.now_s = 0.0
        self.given_s: list[float] = []
        self._behaviours = behaviours
        self._good = good

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        connect_s = request.extensions["timeout"]["connect"]
        self.given_s.append(connect_s)
        if self._good and len(self.given_s) == len(self._behaviours):
            return httpx2.Response(200)
        self.now_s += self._behaviours[len(self.given_s) - 1](connect_s)
        raise httpx2.ConnectTimeout("silent")

    async def searched(self, within_s: float) -> int:
        requests = [httpx2.Request("GET", f"https://192.0.2.{k}/") for k in range(len(self._behaviours))]
        return (await first_answer(self, requests, within_s=within_s, clock=lambda: self.now_s)).status_code


def silent(given_s: float) -> float:
    return given_s


def refusing(_given_s: float) -> float:
    return 0.01


@pytest.mark.parametrize("count", [1, 2, 5, MOST_ADDRESSES])
async def test_silent_addresses_together_use_no_more_than_the_time_to_connect(count: int) -> None:
    network = Network([silent] * count)
    with pytest.raises(httpx2.ConnectTimeout, match="silent"):
        await network.searched(CONNECT_S)
    assert network.now_s == pytest.approx(CONNECT_S)
    assert network.given_s == pytest.approx([CONNECT_S / count] * count)


async def test_the_last_address_has_all_that_quick_refusals_leave() -> None:
    network = Network([refusing] * (MOST_ADDRESSES - 1) + [silent], good=True)
    assert await network.searched(CONNECT_S) == 200
    assert network.given_s[-1] > 0.9 * CONNECT_S


async def test_an_address_that_overruns_its_share_leaves_less_to_the_others() -> None:
    network = Network([lambda given_s: 3 * given_s, silent, silent, silent])
    with pytest.raises(httpx2.ConnectTimeout):
        await network.searched(8.0)
    assert network.now_s == pytest.approx(8.0)
    assert network.given_s == pytest.approx([2.0] + [2 / 3] * 3)


async def test_no_more_than_so_many_addresses_of_one_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network([refusing] * 500)
    monkeypatch.setattr("providers.http.exchange.httpx2.AsyncHTTPTransport", lambda **_: network)
    addresses = [f"198.51.{k // 250}.{k % 250}" for k in range(500)]
    with suppress(*NETWORK_FAULTS):
        async with exchange("GET", httpx2.URL("https://cdn.example/"), addresses, {}, timeout_s=30.0):
            pass
    assert len(network.given_s) == MOST_ADDRESSES
    assert max(network.given_s) <= CONNECT_S
