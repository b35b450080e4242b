"""Simulates hand-made strategies without a limiter on the same provider, for comparison."""

from __future__ import annotations

from limiter.simulation.fleet import START_US, Event, Report, Run, Scenario

FIXED_PAUSE_S = 2.0
MOST_TRIES = 100_000  # a strategy that never gets through ends here instead of running for ever


async def all_at_once(scenario: Scenario) -> Report:
    """Every job is sent at the start; after a 429 all of them retry together at the provider's Retry-After."""
    return await _workers(scenario, "all at once", per_replica=max(1, scenario.jobs))


async def serial(scenario: Scenario) -> Report:
    """Each replica makes one call after the other."""
    return await _workers(scenario, "strictly serial", per_replica=1)


async def fixed_pause(scenario: Scenario) -> Report:
    """Strictly serial, with a sleep between two calls."""
    return await _workers(
        scenario, f"serial, {FIXED_PAUSE_S:g} s pause", per_replica=1, pause_s=FIXED_PAUSE_S
    )


async def semaphore(scenario: Scenario) -> Report:
    """A semaphore in each process, as large as its number of workers."""
    return await _workers(
        scenario, f"semaphore of {scenario.workers} a process", per_replica=scenario.workers
    )


STRATEGIES = (all_at_once, serial, fixed_pause, semaphore)


async def _workers(scenario: Scenario, name: str, *, per_replica: int, pause_s: float = 0.0) -> Report:
    run = Run(scenario, name)
    for _ in range(min(scenario.replicas * per_replica, scenario.jobs)):
        run.timeline.at(START_US, _worker(run, pause_s))
    await run.timeline.run()
    return run.report


def _worker(run: Run, pause_s: float) -> Event:
    async def next_job() -> None:
        if run.todo > 0:
            run.todo -= 1
            await send()

    async def send() -> None:
        if run.report.calls < MOST_TRIES:
            run.send(ended, refused)

    async def ended() -> None:
        run.timeline.after(pause_s, next_job)

    async def refused() -> None:
        run.timeline.after(run.scenario.retry_after_s, send)

    return next_job
