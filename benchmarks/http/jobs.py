"""Jobs that are accepted and read: how fast, and what a request costs."""

from __future__ import annotations

import secrets
from typing import Any

import orjson

from benchmarks.figures import Figure, percentile
from benchmarks.http.load import Load, Make, at_most, at_once, at_rate, request
from benchmarks.http.options import Options
from benchmarks.http.stage import Stage, until_quiet

RATE = 100.0
CONNECTIONS = 32
POST_P50_MS, POST_P99_MS, POSTS_PER_S, GETS_PER_S = 5.0, 30.0, 500.0, 1000.0
IDLE_MB = 100.0


def job(number: int, **more: Any) -> dict[str, Any]:
    """A job as the shop sends it."""
    return {
        "prompt": f"White background product photo of kettle {number}, soft light, no text",
        "size": "1024x1024",
        "output": {"thumbnail": False},
        "metadata": {"sku": f"KET-{number:06}", "season": "winter"},
        **more,
    }


async def idle(stage: Stage, _: Options) -> list[Figure]:
    """The memory of a gateway that has served one request."""
    return [Figure("MB", stage.rss_mb(), at_most=IDLE_MB)]


async def steady(stage: Stage, options: Options) -> list[Figure]:
    """New jobs at an even pace. The worker makes some of them meanwhile; the others wait."""
    await until_quiet(stage)
    before_s = stage.cpu_s()
    load = await at_rate(stage, _posts(stage), 202, RATE, options.seconds)
    cost = _cost(stage, before_s, load)
    return [
        Figure("ms p50", percentile(load.ms, 50), at_most=POST_P50_MS, digits=1),
        Figure("ms p99", percentile(load.ms, 99), at_most=POST_P99_MS, digits=1),
        Figure("errors", load.failed, at_most=0),
        cost,
    ]


async def posts(stage: Stage, options: Options) -> list[Figure]:
    """New jobs as fast as they are accepted."""
    return await _fastest(stage, _posts(stage), 202, POSTS_PER_S, options.short_s)


async def waiting(stage: Stage, options: Options) -> list[Figure]:
    """Records of jobs that wait, each with its position and its estimate."""
    names = [await _accepted(stage) for _ in range(CONNECTIONS)]
    return await _fastest(stage, _reads(stage, names), 200, GETS_PER_S, options.short_s)


async def ended(stage: Stage, options: Options) -> list[Figure]:
    """Records of jobs that have ended, with their picture."""
    names = [await _accepted(stage, wait_s=30, priority="high")]
    return await _fastest(stage, _reads(stage, names), 200, GETS_PER_S, options.short_s)


async def _fastest(stage: Stage, make: Make, status: int, least_per_s: float, seconds: float) -> list[Figure]:
    await until_quiet(stage)
    before_s = stage.cpu_s()
    load = await at_most(stage, make, status, CONNECTIONS, seconds)
    cost = _cost(stage, before_s, load)
    return [
        Figure("a second", len(load.ms) / load.took_s, at_least=least_per_s),
        Figure("errors", load.failed, at_most=0),
        cost,
        Figure("ms p99", percentile(load.ms, 99), digits=1),
    ]


def _cost(stage: Stage, before_s: float, load: Load) -> Figure:
    return Figure("us CPU a request", 1e6 * (stage.cpu_s() - before_s) / max(1, len(load.ms)))


def _posts(stage: Stage) -> Make:
    return lambda number: request(stage, "POST", "/v1/jobs", job(number))


def _reads(stage: Stage, names: list[str]) -> Make:
    made = [request(stage, "GET", f"/v1/jobs/{name}") for name in names]
    return lambda number: made[number % len(made)]


async def _accepted(stage: Stage, wait_s: int = 0, **more: Any) -> str:
    """The id of a new job; with `wait_s` it has ended."""
    headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
    data = request(stage, "POST", "/v1/jobs", job(secrets.randbelow(10**6), **more), **headers)
    load = await at_once(stage, [data], 200 if wait_s else 202)
    if load.failed or not load.bodies:
        raise RuntimeError(f"no job was accepted: {load.bodies}")
    return str(orjson.loads(load.bodies[0])["id"])
