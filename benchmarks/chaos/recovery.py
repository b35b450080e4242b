"""How soon other replicas take over the items of a killed one: the promise of the lease, measured at several kills."""

from __future__ import annotations

import time

from benchmarks.chaos.fleet import Replica
from benchmarks.chaos.plan import ROUTES, Entry
from benchmarks.chaos.stage import FINAL, LEASE_S, Stage, until

BOUND_S = LEASE_S + 2.0
TENANT = "recovery"
ITEMS = 16
LEAST_ORPHANS = 3
RUNS_S = 60.0


def recoveries(stage: Stage, kills: int) -> list[float]:
    """For each kill, the seconds until the last item of the killed replica was taken over or had gone on.

    There are no other strikes. Raises RuntimeError if no replica runs enough items.
    """
    return [_recovery(stage, f"r{number}") for number in range(kills)]


def _recovery(stage: Stage, batch: str) -> float:
    items = [
        {"id": f"{batch}-{k}", "route": ROUTES[k % len(ROUTES)], "prompt": "a cup"} for k in range(ITEMS)
    ]
    defaults = {"size": "512x512", "output": {"thumbnail": False}}
    payload = {"id": batch, "tenant": TENANT, "defaults": defaults, "items": items}
    stage.send(Entry("pixmill.batch.v1", payload))
    uids = [f"{TENANT}/{batch}/{item['id']}" for item in items]
    victims: list[Replica] = []

    def busy() -> bool:
        victims[:] = [r for r in stage.fleet.ready if len(_owned_by(stage, uids, r)) >= LEAST_ORPHANS]
        return bool(victims)

    if not until(busy, RUNS_S):
        raise RuntimeError(f"no replica ran {LEAST_ORPHANS} items of {batch} at once")
    victim = victims[0]
    victim.kill()
    killed_at = time.monotonic()
    until(lambda: not _owned_by(stage, uids, victim), 5 * BOUND_S)
    took_s = time.monotonic() - killed_at
    stage.fleet.start()
    if not until(lambda: all(record["state"] in FINAL for record in stage.records(uids).values()), RUNS_S):
        raise RuntimeError(f"{batch} did not end")
    return took_s


def _owned_by(stage: Stage, uids: list[str], replica: Replica) -> list[str]:
    return [
        uid
        for uid, record in stage.records(uids).items()
        if record.get("state") == "running" and f"-{replica.pid}-" in record.get("worker", "")
    ]
