"""The cause of each alert, brought about in the fleet. The five broken states are mended as the runbook says."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tests.deploy.fleet.stage import REPLICAS, SLOTS, Stage
from tests.deploy.fleet.states import STATES
from tests.e2e.processes import wait_until

See = Callable[..., None]  # waits until the expressions of these alerts are true


def drive(stage: Stage, see: See) -> None:
    """Bring the fleet into the cause of each alert but two, and see them."""
    see("PixmillRedisNoAOF")
    stage.redis.config_set("appendonly", "yes")
    pause(stage)
    work(stage)
    see("PixmillProviderRefuses", "PixmillDeadLetters", "PixmillCallbacksGivenUp", "PixmillHeld")
    see("PixmillProviderUnreachable")
    see("PixmillGatewayErrors", while_=lambda: lack_a_picture(stage))
    see("PixmillQuotaSilent", "PixmillPausedLong", "PixmillQuotaUnused", "PixmillOldItem")
    with full_slots(stage):
        see("PixmillSlotsFull")
    with silent_replica(stage):
        see("PixmillReplicaDown")
    see("PixmillDuplicateResults")
    with revoked(stage):
        see("PixmillAccountNeedsPerson")
    # The other two take more time than a test has: three restarts, and five crashes.
    break_and_mend(stage, see, ["full-store", "read-only", "trimmed"])


def break_and_mend(stage: Stage, see: See, names: Iterable[str]) -> None:
    """Bring the fleet into broken states, one after the other, and back as the runbook says."""
    for name in names:
        with broken(stage, see, name):
            if name == "full-store":
                see("PixmillReplicaNotReady")
            elif name == "read-only":
                see("PixmillNoProgress")
                see(
                    "PixmillGatewayUnavailable",
                    while_=lambda: stage.http.post("/v1/jobs", json={"prompt": "a cup"}),
                )


@contextmanager
def broken(stage: Stage, see: See, name: str) -> Iterator[None]:
    state = STATES[name]
    state.break_(stage)
    see(state.alert)
    yield
    state.mend(stage)


def end(stage: Stage, see: See) -> None:
    """Kill everything."""
    stage.gateway.kill()
    see("PixmillNoGateway")
    for replica in stage.replicas:
        replica.kill()
    see("PixmillNoReplica")


def work(stage: Stage) -> None:
    """A batch on each account, with refusals, moderation, an outage, lost answers, copies and callbacks."""
    faults = stage.simulator.do
    faults("rate_limit", prompt="rated", retry_after_s=0.2)
    faults("moderation", prompt="immoral")
    faults("server_error", count=2, prompt="outage")
    faults("drop", prompt="held")
    stage.receiver.statuses.extend([410] * 4)
    prompts = [f"mug {number}" for number in range(20)] + ["rated", "immoral", "outage", "outage again"]
    stage.send_batch("b1", prompts)
    stage.send_batch("b2", [f"vase {number}" for number in range(4)], route="tasks")
    stage.send_batch("b3", [f"bowl {number}" for number in range(4)], route="costs")
    stage.redis.xadd("pixmill:jobs", {"data": "{"})
    stage.send("held", "held", on_unknown_outcome="hold")
    stage.send("far", "a distant cup", route="nowhere")
    stage.send("told", "a cup", callback={"url": stage.receiver.url})
    stage.send("first", "a teapot", cache="use")
    stage.until("first", "succeeded")
    stage.send("copy", "a teapot", cache="use")
    stage.until("copy", "succeeded")
    stage.until("held", "held")
    for batch in ("b1", "b2", "b3"):
        stage.until_batch_ends(batch)


def lack_a_picture(stage: Stage) -> None:
    """A caller of the OpenAI wire gets no picture."""
    stage.simulator.do("not_a_picture", prompt="nothing", count=2)
    answer = stage.http.post("/v1/images/generations", json={"model": "default", "prompt": "nothing"})
    assert answer.status_code == 502, answer.text


def pause(stage: Stage) -> None:
    """An operator pauses a quota, and forgets a pause of a route whose account is free."""
    stage.pixmill("quota", "pause", "spare", "--reason", "moved")
    stage.pixmill("pause", "--route", "idle", "--reason", "lunch")
    stage.send_batch("waits", [f"lamp {number}" for number in range(100)], route="idle")


@contextmanager
def revoked(stage: Stage) -> Iterator[None]:
    """The provider refuses a key once, so its account waits for a person."""
    stage.simulator.do("auth", prompt="locked")
    stage.send("locked", "locked", route="costs")
    yield
    stage.pixmill("quota", "resume", "costs")


@contextmanager
def full_slots(stage: Stage) -> Iterator[None]:
    """Far more slow items than slots, on an account that could serve more."""
    stage.send_batch("slow", [f"rug {number} takes 8 s" for number in range(6 * REPLICAS * SLOTS)])
    yield
    stage.pixmill("cancel", "slow")
    stage.until_batch_ends("slow")


@contextmanager
def silent_replica(stage: Stage) -> Iterator[None]:
    """A replica stands still during a call for longer than its lease, then goes on."""
    calls = stage.simulator.ledger()["calls"]
    stage.send("twice", "twice takes 3 s")
    wait_until(lambda: stage.simulator.ledger()["calls"] > calls, 60, stage.logs)
    number = stage.running_on("twice")
    assert number is not None
    stage.replicas[number].process.send_signal(signal.SIGSTOP)
    yield
    stage.until("twice", "succeeded")
    stage.replicas[number].process.send_signal(signal.SIGCONT)
