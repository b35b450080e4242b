"""Replicas as real processes, and the strikes that hit them."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path
from typing import Any

import redis

from tests.e2e.processes import Command


class Replica:
    """One `pixmill worker`. Its connections carry its name, so they can be found on the server."""

    def __init__(
        self, name: str, config: Path, redis_url: str, secrets: dict[str, str], descriptors: int | None
    ) -> None:
        self.name = name
        self.wakes_at: float | None = None  # while it is stopped, monotonic
        self.leaving = False
        self.command = Command(
            ["worker", "--config", str(config)],
            config.parent,
            shell="" if descriptors is None else f"ulimit -n {descriptors}",
            PIXMILL_REDIS__URL=f"{redis_url}?client_name={name}",
            **secrets,
        )

    @property
    def pid(self) -> int:
        return self.command.process.pid

    @property
    def alive(self) -> bool:
        return self.command.process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it runs and may be struck."""
        up = self.alive and not self.leaving and self.wakes_at is None
        return up and any("replica started" in line for line in self.command.lines)

    def kill(self) -> None:
        """SIGKILL."""
        self.command.kill()

    def sleep(self, seconds: float) -> None:
        """SIGSTOP; the caller has to `wake` it."""
        self.wakes_at = time.monotonic() + seconds
        self.command.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self.wakes_at = None
        self.command.process.send_signal(signal.SIGCONT)

    def leave(self) -> None:
        """SIGTERM, without waiting."""
        self.leaving = True
        self.command.process.send_signal(signal.SIGTERM)


class Fleet:
    """The replicas of a run, including ended ones. Each may open `descriptors` files, if that is given."""

    def __init__(
        self, config: Path, redis_url: str, secrets: dict[str, str], descriptors: int | None = None
    ) -> None:
        self._config = config
        self._redis_url = redis_url
        self._secrets = secrets
        self._descriptors = descriptors
        self._numbers = itertools.count()
        self.all: list[Replica] = []

    def start(self) -> Replica:
        """Start one more replica."""
        name = f"chaos-{next(self._numbers)}"
        replica = Replica(name, self._config, self._redis_url, self._secrets, self._descriptors)
        self.all.append(replica)
        return replica

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self.all if replica.ready]

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.all if replica.alive]

    def wake_due(self, now: float) -> None:
        """Wake the replicas whose sleep is over."""
        for replica in self.alive:
            if replica.wakes_at is not None and replica.wakes_at <= now:
                replica.wake()

    def is_named(self, consumer: str) -> bool:
        """Whether a consumer of a group is a replica that lives."""
        return any(f"-{replica.pid}-" in consumer for replica in self.alive)

    def cut(self, replica: Replica, client: Any) -> int:
        """Cut all its connections to Redis; returns how many there were."""
        cut = 0
        for connection in client.client_list():
            if connection["name"] == replica.name:
                try:
                    cut += client.client_kill_filter(_id=connection["id"])
                except redis.ResponseError:
                    continue  # it has ended by itself meanwhile
        return cut

    def close(self) -> None:
        for replica in self.alive:
            replica.kill()
