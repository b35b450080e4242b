"""A network that fails costs a job nothing: its input is fetched later, and a paid picture is fetched on."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import httpx2
import pytest
from redis.asyncio import Redis

from daemon.queue.outcomes import Failed, Retry, Succeeded, Throttled
from daemon.storage.object_store import ResultStore, StorageError
from daemon.worker.download import ONLY_ADDRESS_TRIES
from daemon.worker.inputs import InputFetcher
from daemon.worker.retry_policy import FREE_WAITS
from pixmill.contract import Input
from providers.base import Picture
from providers.errors import ErrorKind, ProviderError
from providers.http.outside import download
from providers.shared.answers import fetch_picture
from tests.daemon.worker.test_executor import Bench, behind, png
from tests.daemon.worker.test_retry_policy import outcome_of, run_of

URL = "https://shop.example/a.png"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Network(httpx2.AsyncBaseTransport):
    """A network in which every connection fails with `cause`, or every request is answered with `status`."""

    def __init__(self, cause: BaseException | None = None, status: int = 200) -> None:
        self._cause = cause
        self._status = status

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if isinstance(self._cause, httpx2.HTTPError):
            raise self._cause
        if self._cause is not None:
            raise httpx2.ConnectError("no way") from self._cause
        return httpx2.Response(self._status)


def network(monkeypatch: pytest.MonkeyPatch, found: Network, *, resolving: Exception | None = None) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        if resolving is not None:
            raise resolving
        return ["93.184.216.34"]

    monkeypatch.setattr("providers.http.exchange.httpx2.AsyncHTTPTransport", lambda **_: found)
    for name in ("daemon.worker.inputs.download", "providers.shared.answers.download"):
        monkeypatch.setattr(name, partial(download, resolver=resolve))


async def input_error() -> ProviderError:
    fetcher = InputFetcher(ResultStore.open("memory://"), max_bytes=1000, allow_hosts=())
    with pytest.raises(ProviderError) as caught:
        await fetcher.fetch([Input(url=URL)])
    assert caught.value.kind is ErrorKind.INPUT_FETCH
    assert caught.value.field == "inputs.0.url"
    return caught.value


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        OSError(errno.ENETDOWN, "Network is down"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        httpx2.ProxyError("502 Bad Gateway"),
        httpx2.ProxyError("407 Proxy Authentication Required"),
    ],
)
async def test_an_input_costs_no_attempt_while_this_machine_has_no_network(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    by_name = isinstance(cause, socket.gaierror)
    network(monkeypatch, Network(cause), resolving=cause if by_name else None)
    run = await run_of(redis, attempts=19, throttles=500)
    assert isinstance(await outcome_of(await input_error(), run), Throttled)
    assert not run.route.reach.lost, "that is said of the provider alone"


@pytest.mark.parametrize("cause", [httpx2.ConnectTimeout("silent"), OSError(errno.EHOSTUNREACH, "No route")])
async def test_a_silent_host_of_an_input_costs_attempts_only_after_a_while(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    network(monkeypatch, Network(cause))
    error = await input_error()
    outcomes = []
    run = await run_of(redis)
    for throttles, attempts in ((FREE_WAITS - 1, 0), (FREE_WAITS, 0), (FREE_WAITS, 1)):
        run.item = replace(run.item, throttles=throttles, attempts=attempts)
        outcomes.append(type(await outcome_of(error, run)))
    assert outcomes == [Throttled, Retry, Failed]


async def test_an_input_is_fetched_by_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def hop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().partition(" HTTP/")[0])
        data = png()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(data), data)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hop, "127.0.0.1", 0)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    fetcher = InputFetcher(ResultStore.open("memory://"), max_bytes=100_000, allow_hosts=["shop.example"])
    (image,) = await fetcher.fetch([Input(url="http://shop.example/a.png")])
    assert image.data == png()
    assert asked == ["GET http://shop.example/a.png"]
    server.close()


async def test_a_store_that_is_away_costs_its_inputs_no_attempt(redis: Redis) -> None:
    class Away(ResultStore):
        async def get(self, key: str) -> bytes | None:
            raise StorageError(f"The store does not answer for {key}.")

    bench = Bench(redis)
    fetcher = InputFetcher(Away(bench.store._store, "memory://"), max_bytes=1000, allow_hosts=())
    with pytest.raises(ProviderError, match="does not answer") as caught:
        await fetcher.fetch([Input(object="default/in.png")])
    assert caught.value.field == "inputs.0.object"
    assert isinstance(await outcome_of(caught.value, await run_of(redis)), Throttled)


@pytest.mark.parametrize(
    ("found", "resolving"),
    [
        (Network(status=404), None),
        (Network(status=503), None),
        (Network(OSError(errno.ECONNREFUSED, "Connection refused")), None),
        (Network(), socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
    ],
)
async def test_a_definite_answer_about_an_input_costs_an_attempt(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, found: Network, resolving: Exception | None
) -> None:
    network(monkeypatch, found, resolving=resolving)
    error = await input_error()
    run = await run_of(redis)
    assert isinstance(await outcome_of(error, run), Retry)
    run.item = replace(run.item, attempts=1)
    assert isinstance(await outcome_of(error, run), Failed)


async def test_a_paid_picture_is_fetched_on_through_an_outage_of_the_network(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(monkeypatch, Network(httpx2.ConnectTimeout("silent")))
    bench, tries = Bench(redis), 0

    async def fetch(picture: Picture) -> bytes:
        nonlocal tries
        tries += 1
        if tries > 3 * ONLY_ADDRESS_TRIES:
            return png()
        return await fetch_picture(picture, host="api.example", allow_hosts=())

    monkeypatch.setattr(bench.provider, "fetch", fetch)
    bench.answers = [behind(URL)]
    assert isinstance(await bench.outcome(), Succeeded)
    assert len(bench.provider.requests) == 1
