"""`pixmill simulate`: tries a plan in virtual time before it is paid for, with the limiter and in four ways without."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.broker.embedded import EmbeddedRedis, EmbeddedRedisError
from daemon.cli.errors import FAILED, USAGE, CommandError
from daemon.cli.options import limits_table
from daemon.cli.session import Session, command
from limiter.explain import wait_text
from limiter.quota.quota import CalendarDay, Quota, QuotaError, parse_quota
from limiter.simulation import fleet, strategies
from limiter.simulation.fleet import Report, Scenario
from pixmill.broker.connect import command_client

MOST_JOBS, MOST_REPLICAS, MOST_WORKERS = 20_000, 1_000, 1_000


@command
async def simulate(
    session: Session,
    quota: Annotated[
        list[str], typer.Option("--quota", help="A limit as in a configuration, such as images=20/min.")
    ],
    jobs: Annotated[int, typer.Option(min=1, max=MOST_JOBS, help="How many calls.")] = 200,
    replicas: Annotated[int, typer.Option(min=1, max=MOST_REPLICAS, help="How many processes.")] = 4,
    workers: Annotated[
        int, typer.Option(min=1, max=MOST_WORKERS, help="Calls that one replica runs at a time.")
    ] = 16,
    latency: Annotated[str, typer.Option(help="Seconds that a call takes: 3, or 2-4.")] = "2-4",
    seed: Annotated[int, typer.Option(help="Another seed is another run.")] = 0,
) -> int:
    """Try a plan in virtual time: how long it takes, and how often the provider refuses.

    The real limiter runs against a provider that enforces the quota, and so do four ways without one.
    Nothing is sent, nothing is paid, and one --seed always gives one result.

        pixmill simulate --quota images=20/min --quota in_flight=8 --jobs 200 --replicas 4 --latency 2-4
    """
    scenario = Scenario(
        quotas=(_quota(quota),),
        jobs=jobs,
        replicas=replicas,
        workers=workers,
        latency_s=_latency(latency),
        seed=seed,
    )
    reports = await _reports(scenario)
    document = {
        "jobs": jobs,
        "replicas": replicas,
        "optimum_seconds": round(scenario.optimum_s, 3),
        "strategies": [_as_dict(report) for report in reports],
    }
    least = wait_text(scenario.optimum_s)
    if not session.as_json:
        session.printer.line(f"{jobs} jobs on {replicas} replicas; no sender can be faster than {least}")
    rows = [_row(report) for report in reports]
    return session.printer.table(document, rows, ("STRATEGY", "MAKESPAN", "x OPTIMUM", "429s", "CALLS"))


async def _reports(scenario: Scenario) -> list[Report]:
    """The reports of our limiter and then of each strategy, from a temporary Redis of their own."""
    with tempfile.TemporaryDirectory(prefix="pixmill-simulate-") as directory:
        try:
            server = await EmbeddedRedis.start(Path(directory))
        except EmbeddedRedisError as error:
            raise CommandError(str(error), FAILED, code="no_server") from error
        client = command_client(server.url)
        try:
            ours = await fleet.simulate(client, "simulated", scenario)
        finally:
            await client.aclose()
            await server.stop()
    return [ours, *[await strategy(scenario) for strategy in strategies.STRATEGIES]]


def _quota(given: list[str]) -> Quota:
    try:
        quota = parse_quota("simulated", limits_table(given, "--quota"))
    except QuotaError as error:
        raise CommandError(f"--quota: {error}", USAGE) from error
    if any(isinstance(limit, CalendarDay) or limit.unit == "polls" for limit in quota.limits):
        raise CommandError("--quota: calendar days and polls cannot be simulated; leave them out.", USAGE)
    return quota


def _latency(text: str) -> tuple[float, float]:
    low, dash, high = text.partition("-")
    with suppress(ValueError):
        least, most = float(low), float(high if dash else low)
        if 0 <= least <= most <= 86_400:
            return least, most
    raise CommandError(f"--latency {text} is not a time; write seconds such as 3, or 2-4.", USAGE)


def _row(report: Report) -> tuple[str, ...]:
    times, ratio = f"gave up after {report.calls} calls", "-"
    if report.done == report.jobs:
        times, ratio = wait_text(report.makespan_s), f"{_ratio(report):.2f}"
    return report.strategy, times, ratio, str(report.throttled), str(report.calls)


def _ratio(report: Report) -> float:
    return report.makespan_s / report.optimum_s if report.optimum_s else 1.0


def _as_dict(report: Report) -> dict[str, Any]:
    gave_up = report.done < report.jobs
    return {
        "strategy": report.strategy,
        "done": report.done,
        "gave_up": gave_up,
        "makespan_seconds": None if gave_up else round(report.makespan_s, 3),
        "times_optimum": None if gave_up else round(_ratio(report), 4),
        "throttled": report.throttled,
        "calls": report.calls,
    }
