"""Strikes against the working fleet: a random one every two seconds, one restart of Redis, one deploy."""

from __future__ import annotations

import random
import time
from collections import Counter

from benchmarks.chaos.fleet import Replica
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.stage import LEASE_S, LOOK_S, Stage

REPLICAS = 3
EVERY_S = 2.0
BACK_AFTER_S = 0.5  # a killed replica is started again, as its orchestrator would
SLEEP_S = (1.2 * LEASE_S, 2.2 * LEASE_S)  # longer than the lease: the others take over meanwhile
AWAY_S = 0.7  # how long Redis is gone when it restarts
RESTART_AT, DEPLOY_AT = 0.3, 0.55  # of the items have ended
SEND_EVERY_S = 0.25
FOLLOW_EVERY_S = 0.2


class Director:
    """Sends the plan's work and strikes, until every item has ended or is held."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self.stage = stage
        self.plan = plan
        self.struck: Counter[str] = Counter()
        self.deployed: list[Replica] = []
        self._draw = random.Random(plan.seed)
        self._to_send = list(reversed(plan.entries))
        self._next_send = self._next_strike = self._next_follow = 0.0
        self._to_start: list[float] = []  # when killed replicas come back
        self._old: list[Replica] = []  # of the deploy, still to be replaced
        self._new: Replica | None = None

    def run(self, longest_s: float) -> bool:
        """Whether all work ended within `longest_s`."""
        started = time.monotonic()
        self._next_strike = started + EVERY_S
        while len(self.stage.ended) < len(self.plan.items) or self._to_send:
            now = time.monotonic()
            if now - started > longest_s:
                return False
            self._send(now)
            self._keep_up(now)
            if now >= self._next_strike:
                self._next_strike = now + EVERY_S
                self._strike(now)
            self._follow(now)
            time.sleep(LOOK_S)
        return True

    def calm(self, timeout_s: float) -> bool:
        """Wake all sleeping replicas and start the killed ones again; whether the fleet is whole in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._keep_up(time.monotonic())
            if self._is_whole():
                return True
            time.sleep(LOOK_S)
        return False

    def _is_whole(self) -> bool:
        fleet = self.stage.fleet
        busy = self._to_start or self._old or self._new is not None
        return not busy and len(fleet.ready) == REPLICAS and len(fleet.alive) == REPLICAS

    def _send(self, now: float) -> None:
        if self._to_send and now >= self._next_send:
            self._next_send = now + SEND_EVERY_S
            if self.stage.send(self._to_send[-1]):
                self._to_send.pop()

    def _follow(self, now: float) -> None:
        if now >= self._next_follow:
            self._next_follow = now + FOLLOW_EVERY_S
            self.stage.follow()

    def _keep_up(self, now: float) -> None:
        fleet = self.stage.fleet
        fleet.wake_due(now)
        for at in [at for at in self._to_start if at <= now]:
            self._to_start.remove(at)
            fleet.start()
        self._deploy_on()

    def _strike(self, now: float) -> None:
        done = len(self.stage.ended) / len(self.plan.items)
        if done >= RESTART_AT and not self.struck["redis restart"]:
            self._restart_redis()
        elif done >= DEPLOY_AT and not self.struck["rolling deploy"]:
            self.struck["rolling deploy"] += 1
            self._old = list(self.stage.fleet.ready)
        else:
            self._strike_one(now)

    def _strike_one(self, now: float) -> None:
        ready = [replica for replica in self.stage.fleet.ready if replica not in self._old]
        if not ready:
            return
        victim = self._draw.choice(ready)
        what = self._draw.choice(("kill", "stop", "cut"))
        if what == "kill" and len(ready) == 1:
            what = "cut"  # or a slow machine would never have anybody at work
        self.struck[what] += 1
        if what == "kill":
            victim.kill()
            self._to_start.append(now + BACK_AFTER_S)
        elif what == "stop":
            victim.sleep(self._draw.uniform(*SLEEP_S))
        else:
            self.stage.fleet.cut(victim, self.stage.redis)

    def _restart_redis(self) -> None:
        self.struck["redis restart"] += 1
        self.stage.server.kill()
        time.sleep(AWAY_S)
        self.stage.server.start()

    def _deploy_on(self) -> None:
        """Replace the replicas one by one: start a new one, then send SIGTERM to the old one."""
        if self._new is None and self._old:
            self._new = self.stage.fleet.start()
        elif self._new is not None and (self._new.ready or not self._new.alive):
            self._new = None
            old = self._old.pop(0)
            if old.alive and old.wakes_at is None:
                old.leave()
                self.deployed.append(old)
