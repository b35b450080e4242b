"""Four previews at once, by each door: how much longer than the provider takes."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import Figure
from benchmarks.http.jobs import job
from benchmarks.http.load import at_once, request
from benchmarks.http.options import Options
from benchmarks.http.stage import LATENCY_S, Stage

PREVIEWS = 4
MORE_S = 0.3
GENERATIONS = "/v1/images/generations"


async def previews(stage: Stage, _: Options) -> list[Figure]:
    """All doors, one after the other; their buckets are full, and the connections to the provider are cold."""
    return [
        await _figure(stage, name, requests(stage))
        for name, requests in (("jobs", _jobs), ("openai", _openai), ("pictures", _pictures))
    ]


async def _figure(stage: Stage, name: str, requests: list[bytes]) -> Figure:
    load = await at_once(stage, requests, 200)
    if load.failed:
        raise RuntimeError(f"no preview by {name}: {[body[:300] for body in load.bodies]}")
    return Figure(f"s by {name}", max(load.ms) / 1000, at_most=LATENCY_S + MORE_S, digits=2)


def _jobs(stage: Stage) -> list[bytes]:
    bodies = [job(number, route="jobs", priority="high") for number in range(PREVIEWS)]
    return [request(stage, "POST", "/v1/jobs", body, Prefer="wait=60") for body in bodies]


def _openai(stage: Stage) -> list[bytes]:
    return [request(stage, "POST", GENERATIONS, _generation(number, "openai")) for number in range(PREVIEWS)]


def _pictures(stage: Stage) -> list[bytes]:
    return [request(stage, "POST", GENERATIONS, {**_generation(0, "pictures"), "n": PREVIEWS})]


def _generation(number: int, route: str) -> dict[str, Any]:
    return {"model": route, "prompt": f"A kettle, view {number}", "size": "1024x1024", "priority": "high"}
