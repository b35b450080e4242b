"""A whole installation in one process: replicas as they are shipped, a simulated provider, and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from daemon import service
from daemon.replica import Replica
from daemon.settings import Settings
from limiter.keys import LimiterKeys
from pixmill.client import Client
from providers.simulator.server import Simulator
from providers.simulator.settings import SimulatorSettings
from tests.daemon.harness import eventually

KEY = {"SIMULATED_KEY": "sk-planted-simulated"}
LEASE_S = 1.0
# Enough for a busy machine and for the outage that a test makes.
PATIENCE_S = 45.0
SLOW = SimulatorSettings(plain=True, latency_s=(0.3, 0.6))
FIELDS = {"output": {"thumbnail": False}}


class Installed:
    """`replicas` on one Redis and one account; `client` is a producer's."""

    def __init__(
        self, client: Client, replicas: list[Replica], simulator: Simulator, settings: Settings
    ) -> None:
        self.client = client
        self.replicas = replicas
        self.simulator = simulator
        self._settings = settings

    @asynccontextmanager
    async def another(self, url: str) -> AsyncIterator[Replica]:
        """One more replica, which reaches Redis by `url`."""
        async with service.worker(self._settings, url, environ=KEY) as running:
            yield running.replica

    async def send(self, batch: str, items: int, **more: Any) -> str:
        """Send a batch as a producer does; no other batch has its prompts."""
        rows = [{"id": f"i{k}", "prompt": f"product {batch} {k}", **FIELDS, **more} for k in range(items)]
        return await self.client.submit_batch({"id": batch}, rows)

    async def counts(self, batch: str) -> dict[str, int]:
        """Its counts by state; empty while the batch is unknown."""
        view: Any = await self.client.status(batch)
        return {} if view is None else view.counts.by_state()

    async def reached(self, batch: str, **least: int) -> dict[str, int]:
        """Wait until the batch has at least so many items in these states."""

        async def enough() -> dict[str, int] | None:
            counts = await self._counts_if_answered(batch)
            return counts if all(counts.get(state, 0) >= n for state, n in least.items()) else None

        counts: dict[str, int] = await eventually(enough, PATIENCE_S)
        return counts

    async def ended(self, batch: str) -> dict[str, int]:
        """Wait until every item of the batch has ended; its counts."""

        async def all_ended() -> dict[str, int] | None:
            counts = await self._counts_if_answered(batch)
            moving = ("queued", "throttled", "retry_wait", "running")
            return counts if counts and not any(counts[state] for state in moving) else None

        counts: dict[str, int] = await eventually(all_ended, PATIENCE_S)
        return counts

    async def _counts_if_answered(self, batch: str) -> dict[str, int]:
        try:
            return await self.counts(batch)
        except Exception:
            return {}  # Redis is away; the test waits for it

    async def ready(self) -> None:
        """Wait until every replica reports that it is consuming."""

        async def agreed() -> bool:
            return all(replica.readiness() == (True, "consuming") for replica in self.replicas)

        await eventually(agreed, PATIENCE_S)

    async def unready(self, because: str) -> None:
        """Wait until every replica reports that it is not consuming, with these words."""

        async def agreed() -> bool:
            reports = [replica.readiness() for replica in self.replicas]
            return all(not ready and because in sentence for ready, sentence in reports)

        await eventually(agreed, PATIENCE_S)

    def calls(self) -> dict[str, int]:
        """The provider's count of calls, by prompt."""
        return self.simulator.ledger.calls_by_prompt()

    async def events(self, kind: str) -> list[str]:
        """The items of the events of this kind, in order."""
        rows: Any = await self.client.redis.xrange(self.client.keys.events)
        return [orjson.loads(f[b"data"]).get("item") for _, f in rows if f[b"type"] == kind.encode()]

    async def places(self) -> dict[str, int]:
        """How many places in flight count at this moment, by quota."""
        redis, keys = self.client.redis, LimiterKeys(self.client.keys.prefix)
        seconds, micros = await redis.time()
        now_us = int(seconds) * 1_000_000 + int(micros)
        return {
            quota: await redis.zcount(keys.of(quota, "leases"), now_us, "+inf") for quota in ("sync", "task")
        }

    async def nothing_held(self) -> None:
        """Wait until no entry is pending and no place in flight is taken, also by a lost reply."""
        redis: Any = self.client.redis
        keys = self.client.keys

        async def free() -> bool:
            # The jobs stream and the two routes; a stream that was never made has nothing pending.
            for stream, group in [
                (keys.jobs, "intake"),
                (keys.stream("default", "normal"), "workers"),
                (keys.stream("tasks", "normal"), "workers"),
            ]:
                if await redis.exists(stream) and (await redis.xpending(stream, group))["pending"]:
                    return False
            return not any((await self.places()).values())

        await eventually(free, PATIENCE_S)


@asynccontextmanager
async def installed(
    url: str,
    directory: Path,
    *,
    prefix: str = "pixmill",
    replicas: int = 1,
    simulator: SimulatorSettings | None = None,
    quota: Mapping[str, object] | None = None,
    polls: str | None = None,
    client_url: str | None = None,
) -> AsyncIterator[Installed]:
    """Start the installation and stop it.

    `polls` limits the polls of tasks. `client_url` is the producer's way to Redis, if it has another.
    """
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(
            Simulator(simulator or SimulatorSettings(plain=True, latency_s=(0.02, 0.05)))
        )
        settings = _settings(url, prefix, directory, provider, quota or {"in_flight": 16}, polls)
        client = await stack.enter_async_context(Client(client_url or url, prefix))
        running = [
            await stack.enter_async_context(service.worker(settings, url, environ=KEY))
            for _ in range(replicas)
        ]
        yield Installed(client, [each.replica for each in running], provider, settings)


def _settings(
    url: str,
    prefix: str,
    directory: Path,
    simulator: Simulator,
    quota: Mapping[str, object],
    polls: str | None,
) -> Settings:
    tasks = {"in_flight": 16} | ({"polls": polls} if polls else {})
    account = {"api_key_env": "SIMULATED_KEY"}
    return Settings.model_validate(
        {
            "redis": {"url": url, "prefix": prefix},
            "worker": {"lease": LEASE_S, "drain_timeout": "10s"},
            "storage": {"url": f"file://{directory}/images"},
            "metrics": {"listen": "127.0.0.1:0"},
            "credentials": {
                "sync": {"provider": "openai", "base_url": simulator.base_url, **account},
                "task": {"provider": "zimage", "base_url": simulator.modelscope_url, **account},
            },
            "quotas": {"sync": dict(quota), "task": tasks},
            "routes": {
                "default": {"credential": "sync", "model": "sim-1", "quotas": ["sync"]},
                "tasks": {
                    "credential": "task",
                    "model": "Tongyi-MAI/Z-Image-Turbo",
                    "quotas": ["task"],
                    "provider_timeout": "30s",
                },
            },
        }
    )
