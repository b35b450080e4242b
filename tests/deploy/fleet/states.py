"""Five broken states of a fleet, each with the steps of the runbook that bring it back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.fleet.stage import REPLICAS, Stage, key_of
from tests.e2e.processes import Command, wait_until

FILLER = "filler"
NEW_KEY = "sk-fleet-second"
BACK_S = 60.0
POISONED_S = 180.0  # each crash costs a lease and a start
TRAYS = 8


@dataclass(frozen=True)
class State:
    """`alert` reports it first. `world` is what a person sees outside of Pixmill, such as in a console."""

    alert: str
    world: str
    break_: Callable[[Stage], None]
    repair: Callable[[Stage], None]
    is_back: Callable[[Stage], bool]

    def mend(self, stage: Stage) -> None:
        """Take the steps of the runbook, and wait for their success."""
        self.repair(stage)
        wait_until(lambda: self.is_back(stage), BACK_S, lambda: f"{self.alert} is not mended\n{stage.logs()}")


def batch_ended(stage: Stage, ident: str) -> bool:
    return bool(stage.redis.hget(f"pixmill:batch:default/{ident}", "state") == "completed")


def revoke_the_key(stage: Stage) -> None:
    """The provider knows another key alone."""
    stage.simulator.stop()
    stage.simulator = stage.start_simulator(default=NEW_KEY)
    stage.send_batch("locked", [f"lock {number}" for number in range(4)])


def use_the_new_key(stage: Stage) -> None:
    """Put the new key where the old one was, restart one replica after the other, resume the quota."""
    stage.set_key("default", NEW_KEY)
    for number in range(REPLICAS):
        stage.replicas[number].stop()
        stage.replicas[number] = stage.start_replica(number)
        stage.replicas[number].wait_for("replica started")
    stage.pixmill("quota", "resume", "default")


def fill_the_store(stage: Stage) -> None:
    """The disk of the pictures is full; where this user may mount none, its folder has gone."""
    if stage.pictures is None:
        _folder(stage).rename(stage.directory / "away")
        _folder(stage).touch()
    else:
        with (_folder(stage) / FILLER).open("wb", buffering=0) as filler:
            for size in (2**20, 2**12, 1):
                try:
                    while True:
                        filler.write(b"\0" * size)
                except OSError:
                    continue
    stage.send_batch("stored", [f"plate {number}" for number in range(4)])


def empty_the_store(stage: Stage) -> None:
    """Free the disk."""
    if stage.pictures is not None:
        (_folder(stage) / FILLER).unlink()
    else:
        _folder(stage).unlink()
        (stage.directory / "away").rename(_folder(stage))


def _folder(stage: Stage) -> Path:
    return stage.directory / "images"


def refuse_writes(stage: Stage) -> None:
    """A failover has made this Redis a replica of a server that is away."""
    stage.send_batch("later", [f"jar {number}" for number in range(60)])
    stage.until("later/i5", "succeeded")
    stage.redis.execute_command("REPLICAOF", "127.0.0.1", "9")


def accept_writes(stage: Stage) -> None:
    """Make it a master again."""
    stage.redis.execute_command("REPLICAOF", "NO", "ONE")


def poison(stage: Stage) -> None:
    """An item whose replica is killed each time, as by a lack of memory."""
    stage.send_batch("poisoned", ["a cup", "poison takes 4 s"])
    deadline = time.monotonic() + POISONED_S
    while stage.record("poisoned/i1").get("state") != "failed":
        number = stage.running_on("poisoned/i1")
        if number is not None:
            stage.replicas[number].kill()
            stage.supervise()
        assert time.monotonic() < deadline, stage.logs()
        time.sleep(0.05)


def retry_the_poisoned(stage: Stage) -> None:
    """The cause is gone: send what was given up again."""
    for reason in ("poison", "unknown_outcome"):
        stage.pixmill("dead", "retry", "--reason", reason)


def trim(stage: Stage) -> None:
    """A producer trims the stream of waiting items, and that of jobs right after it has sent some."""
    stage.pixmill("pause", "--route", "default")
    wait_until(lambda: all(map(_has_paused, stage.replicas)), BACK_S, stage.logs)
    for number in range(TRAYS):
        _send_tray(stage, f"tray-{number}")
        stage.until(f"tray-{number}", "queued")
    stage.redis.xtrim("pixmill:q:default:normal", maxlen=0, approximate=False)
    with stage.redis.pipeline(transaction=True) as pipe:
        pipe.xadd("pixmill:jobs", {"data": json.dumps({"id": "tray-lost", "prompt": "a tray"})})
        pipe.xtrim("pixmill:jobs", maxlen=0, approximate=False)
        pipe.execute()
    stage.pixmill("resume", "--route", "default")


def _has_paused(replica: Command) -> bool:
    """Whether a replica knows that the route is paused, by its log."""
    return any("pauses changed" in line and "default" in line for line in replica.lines)


def send_again(stage: Stage) -> None:
    """The producer sends all its jobs of that time again under their ids, and `doctor` forgets the loss."""
    for name in _trays():
        _send_tray(stage, name)
    stage.until("tray-lost", "succeeded")
    stage.redis.hincrby("pixmill:installation", "entries_ended", 1)


def _send_tray(stage: Stage, name: str) -> None:
    stage.send(name, "a tray", output={})


def _trays() -> list[str]:
    return [f"tray-{number}" for number in range(TRAYS)] + ["tray-lost"]


STATES = {
    "revoked-key": State(
        "PixmillAccountNeedsPerson",
        f"The provider's console: the key {key_of('default')} was revoked. A new one is {NEW_KEY}. It belongs into "
        "default.key.",
        revoke_the_key,
        use_the_new_key,
        lambda stage: batch_ended(stage, "locked"),
    ),
    "full-store": State(
        "PixmillStorageFailing",
        "The pictures are in images.",
        fill_the_store,
        empty_the_store,
        lambda stage: batch_ended(stage, "stored") and all(stage.ready()),
    ),
    "read-only": State(
        "PixmillLimiterErrors",
        "There is one Redis. It was made a replica by mistake.",
        refuse_writes,
        accept_writes,
        lambda stage: batch_ended(stage, "later") and all(stage.ready()),
    ),
    "poison": State(
        "PixmillDeadLetters",
        "The kernel killed replicas for their memory; they have more memory now.",
        poison,
        retry_the_poisoned,
        lambda stage: batch_ended(stage, "poisoned"),
    ),
    "trimmed": State(
        "PixmillEntriesLost",
        "The shop trimmed pixmill:jobs and pixmill:q:* and has stopped that now. It sent the jobs tray-0 to tray-7 and "
        'tray-lost, each with the prompt "a tray" alone; you may send them in its name.',
        trim,
        send_again,
        lambda stage: (
            all(stage.record(name).get("state") == "succeeded" for name in _trays())
            and "pixmill:jobs has lost nothing" in stage.pixmill("doctor", may_fail=True)
        ),
    ),
}
