"""The endpoints show that the replica is alive, whether it consumes, and its metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from daemon.telemetry.health import health_app
from daemon.telemetry.metrics import Metrics
from providers.http.asgi import AsgiServer


class Replica:
    """The parts of a replica that the endpoints use, and a client for them."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.consuming = (True, "consuming: 2 routes looked for work")
        self.refreshed = 0
        app = health_app(self.metrics, lambda: self.consuming, self._refresh)
        self.server = AsgiServer(app, "127.0.0.1", 0)

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=self.server.url) as client:
            return await client.get(path, headers=headers)

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)

    async def _refresh(self) -> None:
        self.refreshed += 1


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    await replica.server.start()
    yield replica
    await replica.server.stop()


async def test_metrics_are_prometheus_text_and_refreshed_first(replica: Replica) -> None:
    replica.metrics.reclaimed.inc(3)
    answer = await replica.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "pixmill_reclaimed_total 3.0" in answer.text.splitlines()
    assert replica.refreshed == 1


async def test_metrics_are_openmetrics_when_requested(replica: Replica) -> None:
    answer = await replica.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_a_replica_that_consumes_is_ready(replica: Replica) -> None:
    answer = await replica.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "consuming: 2 routes looked for work\n")
    await replica.get("/metrics")
    assert replica.value("pixmill_ready") == 1


async def test_a_replica_that_does_not_consume_is_alive_and_not_ready(replica: Replica) -> None:
    replica.consuming = (False, "Redis has not answered for 12 s.")
    answer = await replica.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "Redis has not answered for 12 s.\n")
    assert (await replica.get("/healthz")).status_code == 200
    await replica.get("/metrics")
    assert replica.value("pixmill_ready") == 0


async def test_a_blocked_event_loop_shows_as_lag(replica: Replica) -> None:
    time.sleep(0.6)  # noqa: ASYNC251 - this is the fault
    async with asyncio.timeout(5):
        while not (replica.value("pixmill_event_loop_lag_seconds") or 0) > 0.3:
            await asyncio.sleep(0.02)
