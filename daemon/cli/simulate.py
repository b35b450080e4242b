"""`pixmill simulate`: a run in virtual time before it is paid for, and what people do without a limiter beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.exits import ALL_WELL, FAILED, USAGE, CommandError
from daemon.cli.session import Session, command

if TYPE_CHECKING:
    from limiter.quota.quota import Quota
    from limiter.simulation.fleet import Report, Scenario

SIMULATE_HELP = """Try a plan in virtual time: how long it takes, and how often the provider refuses.

The real limiter runs against a provider that enforces the quota, and so do four ways without one. Nothing is sent,
nothing is paid, and one --seed always gives one answer.

    pixmill simulate --quota images=20/min --quota in_flight=8 --jobs 200 --replicas 4 --latency 2-4
"""
MOST_JOBS, MOST_REPLICAS, MOST_WORKERS = 20_000, 1_000, 1_000


def register(app: typer.Typer) -> None:
    app.command("simulate", help=SIMULATE_HELP)(simulate)


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
    from limiter.simulation.fleet import Scenario

    scenario = Scenario(
        quotas=(_quota(quota),),
        jobs=jobs,
        replicas=replicas,
        workers=workers,
        latency_s=_latency(latency),
        seed=seed,
    )
    reports = await _reports(scenario)
    if session.as_json:
        session.printer.document(
            {
                "jobs": jobs,
                "replicas": replicas,
                "optimum_seconds": round(scenario.optimum_s, 3),
                "strategies": [_as_dict(report) for report in reports],
            }
        )
        return ALL_WELL
    session.printer.line(
        f"{jobs} jobs on {replicas} replicas; no sender can be faster than {_seconds(scenario.optimum_s)}"
    )
    rows = [("STRATEGY", "MAKESPAN", "x OPTIMUM", "429s", "CALLS"), *map(_row, reports)]
    session.printer.table(rows)
    return ALL_WELL


async def _reports(scenario: Scenario) -> list[Report]:
    """Ours first, then each strategy; on a Redis of their own, which ends with them."""
    from daemon.broker.connect import command_client
    from daemon.broker.embedded import EmbeddedRedis, EmbeddedRedisError
    from limiter.simulation import fleet as simulation
    from limiter.simulation import strategies

    with tempfile.TemporaryDirectory(prefix="pixmill-simulate-") as directory:
        try:
            server = await EmbeddedRedis.start(Path(directory))
        except EmbeddedRedisError as error:
            raise CommandError(str(error), FAILED, code="no_server") from error
        client = command_client(server.url)
        try:
            ours = await simulation.simulate(client, "simulated", scenario)
        finally:
            await client.aclose()
            await server.stop()
    return [ours, *[await strategy(scenario) for strategy in strategies.STRATEGIES]]


def _quota(given: list[str]) -> Quota:
    from daemon.cli.limits import limits_table
    from limiter.quota.quota import CalendarDay, QuotaError, parse_quota

    try:
        quota = parse_quota("simulated", limits_table(given, "--quota"))
    except QuotaError as error:
        raise CommandError(f"--quota: {error}", USAGE) from error
    for limit in quota.limits:
        if isinstance(limit, CalendarDay) or limit.unit == "polls":
            raise CommandError("--quota: calendar days and polls cannot be simulated; leave them out.", USAGE)
    return quota


def _latency(text: str) -> tuple[float, float]:
    first, dash, last = text.partition("-")
    try:
        low = float(first)
        high = float(last) if dash else low
    except ValueError:
        low, high = 0.0, -1.0
    if not 0 <= low <= high <= 86_400:
        raise CommandError(f"--latency {text} is not a time; write seconds such as 3, or 2-4.", USAGE)
    return low, high


def _row(report: Report) -> tuple[str, str, str, str, str]:
    counts = (str(report.throttled), str(report.calls))
    if report.done < report.jobs:
        return report.strategy, f"gave up after {report.calls} calls", "-", *counts
    return report.strategy, _seconds(report.makespan_s), f"{_ratio(report):.2f}", *counts


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


def _seconds(amount: float) -> str:
    from limiter.explain import wait_text

    return wait_text(amount)
