"""A worker that slept for longer than its lease wakes up: what it ran is not its own any more."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.processes import wait_until
from tests.e2e.test_crash_matrix import Stage
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(180)

# A busy machine itself stands still for half a second now and then, after which nobody is taken for dead for a lease.
LEASE = "1.5s"
ENDS = ("job.succeeded", "job.failed", "job.held", "job.cancelled", "job.expired")
SETTLED = (
    "state",
    "epoch",
    "attempts",
    "result",
    "error",
    "calls_no",
    "calls_maybe",
    "calls_yes",
    "finished_us",
)
GAVE_UP = ("lost its lease", "another worker took the item over", "settled by another worker before")


@dataclass(frozen=True)
class Sleep:
    """Where the worker falls asleep with its item, and what there must be when all is over."""

    route: str
    step: str
    policy: str
    calls: int  # at the provider, by both workers
    state: str

    @property
    def item(self) -> str:
        return f"{self.route}-{self.step}-{self.policy}"


SLEEPS = [
    # Announced and not sent: the heir cannot know that, and the sleeper must not send any more.
    Sleep("openai", "intent", "hold", 0, "held"),
    Sleep("openai", "intent", "retry_once", 1, "succeeded"),
    # Answered, and not written down.
    Sleep("zimage", "answer", "fail", 1, "failed"),
    # The heir goes on with the task, or finds the picture.
    Sleep("zimage", "receipt", "retry_once", 1, "succeeded"),
    Sleep("openai", "store", "hold", 1, "succeeded"),
]


class Night:
    """One sleeper and one heir, and what was known of each item before the sleeper woke, after it, and at the end."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        stage.config.write_text(stage.config.read_text().replace('lease = "1s"', f'lease = "{LEASE}"'))
        self.sleeper = stage.start("asleep", *{sleep.step for sleep in SLEEPS})
        self.heir = stage.start("none")
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def pass_by(self) -> None:
        for sleep in SLEEPS:
            self._sleep_through(sleep)
        # Whatever it would still do it has done when it has left.
        self.sleeper.stop()
        self.after = {sleep.item: self._known_of(sleep) for sleep in SLEEPS}

    def _sleep_through(self, sleep: Sleep) -> None:
        # The heir sleeps first, or it could be the one who claims.
        self.heir.process.send_signal(signal.SIGSTOP)
        self._submit(sleep)
        wait_until(self._fallen_asleep, 20, lambda: self.sleeper.output[-3000:])
        self.heir.process.send_signal(signal.SIGCONT)
        record = f"pixmill:item:default//{sleep.item}"
        wait_until(
            lambda: self.stage.redis.hget(record, "state") == sleep.state,
            20,
            lambda: f"{self.stage.redis.hgetall(record)}\n{self.heir.output[-3000:]}",
        )
        self.before[sleep.item] = self._known_of(sleep)
        self.sleeper.process.send_signal(signal.SIGCONT)
        wait_until(lambda: self.has_given_up(sleep), 20, lambda: self.sleeper.output[-3000:])

    def _submit(self, sleep: Sleep) -> None:
        job = {
            "id": sleep.item,
            "route": sleep.route,
            "prompt": f"a kettle, {sleep.item}.",
            "size": "512x512",
            "on_unknown_outcome": sleep.policy,
        }
        self.stage.redis.xadd("pixmill:jobs", {"data": json.dumps(job)})

    def _fallen_asleep(self) -> bool:
        return bool(os.waitid(os.P_PID, self.sleeper.process.pid, os.WSTOPPED | os.WNOHANG))

    def has_given_up(self, sleep: Sleep) -> bool:
        """Whether the sleeper has logged that the item is not its own any more."""
        lines = [line for line in list(self.sleeper.lines) if sleep.item in line]
        return any(text in line for line in lines for text in GAVE_UP)

    def _known_of(self, sleep: Sleep) -> dict[str, Any]:
        """The end of the item, its events, and its calls at the provider."""
        rows = self.stage.redis.xrange("pixmill:events")
        events = [(fields["type"], json.loads(fields["data"])) for _, fields in rows]
        calls = self.stage.simulator.ledger()["calls_by_prompt"]
        record = self.stage.redis.hgetall(f"pixmill:item:default//{sleep.item}")
        return {
            "record": {name: value for name, value in record.items() if name in SETTLED},
            "ends": [kind for kind, data in events if data.get("job") == sleep.item and kind in ENDS],
            "calls": calls.get(f"a kettle, {sleep.item}.", 0),
        }


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Night]:
    stage = Stage(tmp_path_factory.mktemp("night"), redis_server)
    try:
        night = Night(stage)
        night.pass_by()
        yield night
    finally:
        stage.close()


@pytest.mark.parametrize("sleep", SLEEPS, ids=lambda sleep: sleep.item)
def test_a_worker_that_slept_past_its_lease_pays_nothing_and_settles_nothing(
    night: Night, sleep: Sleep
) -> None:
    after = night.after[sleep.item]
    assert after == night.before[sleep.item], "it changed nothing"
    assert after["calls"] == sleep.calls
    assert after["record"]["state"] == sleep.state
    assert len(after["ends"]) == 1


def test_the_sleeper_says_what_it_has_lost_and_lives_on(night: Night) -> None:
    assert all(night.has_given_up(sleep) for sleep in SLEEPS)
    assert night.sleeper.process.returncode == 0
