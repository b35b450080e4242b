"""Serves /metrics for Prometheus, and /healthz and /readyz for a supervisor.

A process check does not notice a process that runs and claims nothing. So /healthz shows that the event loop runs, and
/readyz that the replica consumes work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from daemon.telemetry.metrics import ProcessMetrics

LAG_EVERY_S = 0.25
LAG_KEPT = 60  # samples: 15 s, so that a scrape also shows a stall that ended before it

Readiness = Callable[[], tuple[bool, str]]


def health_app(
    metrics: ProcessMetrics, readiness: Readiness, refresh: Callable[[], Awaitable[None]]
) -> Starlette:
    """The app behind `metrics.listen`.

    `readiness` returns whether the replica is consuming, and the reason in one sentence. `refresh` brings gauges up to
    date before a scrape; it must neither raise nor take long. The app also measures the loop's lag.
    """

    async def show_metrics(request: Request) -> Response:
        await refresh()
        metrics.ready.set(readiness()[0])
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), media_type=content_type)

    async def show_health(_: Request) -> Response:
        # A reply is the check: a blocked event loop lets the probe time out.
        return PlainTextResponse("alive\n")

    async def show_readiness(_: Request) -> Response:
        ready, why = readiness()
        return PlainTextResponse(f"{why}\n", status_code=200 if ready else 503)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        meter = asyncio.create_task(_measure_lag(metrics), name="event loop lag")
        yield
        meter.cancel()

    routes = [
        Route("/metrics", show_metrics),
        Route("/healthz", show_health),
        Route("/readyz", show_readiness),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _measure_lag(metrics: ProcessMetrics) -> None:
    loop = asyncio.get_running_loop()
    recent: deque[float] = deque(maxlen=LAG_KEPT)
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        recent.append(max(0.0, loop.time() - due))
        metrics.event_loop_lag_seconds.set(max(recent))
