"""The place of a run: a simulator with four wires, a Redis with AOF, the configuration, and a producer."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import redis

from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.plan import ROUTES, Entry, Plan
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY, Rate
from tests.e2e.processes import SimulatorProcess
from tests.servers import RedisServer

LEASE_S = 2.0
IN_FLIGHT = 6
IMAGES = "30/10s"
POLLS = "20/4s"
LATENCY = "0.4-1.6"
LOOK_S = 0.02
FINAL = ("succeeded", "failed", "cancelled", "expired")

CONFIG = f"""
[worker]
lease = "{LEASE_S:g}s"
drain_timeout = "40s"
max_in_flight = 16
[storage]
url = "{{store}}"
[metrics]
listen = "127.0.0.1:0"
"""
ACCOUNT = f"""
[credentials.{{route}}]
{{account}}
[quotas.{{route}}]
images = "{IMAGES}"
in_flight = {IN_FLIGHT}
{{polls}}
[routes.{{route}}]
credential = "{{route}}"
model = "{{model}}"
quotas = ["{{route}}"]
provider_timeout = "{{timeout_s}}s"
"""
# Each account has its own secret, so the simulator's quotas and books are apart.
ACCOUNTS = {
    "zimage": ('provider = "zimage"\nbase_url = "{root}/modelscope"', "Tongyi-MAI/Z-Image-Turbo", 20),
    "hunyuan": ('provider = "hunyuan"\nwire = "tc3"\nbase_url = "{root}"', "hy-image-v3.0", 20),
    "openai": ('provider = "openai"\nbase_url = "{root}/v1"', "sim-1", 8),
    "openrouter": (
        'provider = "openrouter"\nbase_url = "{root}/api/v1"',
        "google/gemini-3.1-flash-image",
        8,
    ),
}
SECRETS = {
    **{f"CHAOS_{route.upper()}": f"sk-chaos-{route}-planted" for route in ROUTES if route != "hunyuan"},
    "CHAOS_ID": TC3_SECRET_ID,
    "CHAOS_KEY": TC3_SECRET_KEY,
}
KEYS = {route: SECRETS.get(f"CHAOS_{route.upper()}", TC3_SECRET_ID) for route in ROUTES}


class Stage:
    """Everything that is there before the first replica, with the reads of its state.

    The pictures go to the directory, or to the URL `store`, which needs `environ`. Each replica may open `descriptors`
    files, if that is given.
    """

    def __init__(
        self,
        directory: Path,
        *,
        store: str = "",
        environ: Mapping[str, str] | None = None,
        descriptors: int | None = None,
    ) -> None:
        self.directory = directory
        self.server = RedisServer(persistent=True)
        self.redis: Any = redis.Redis.from_url(self.server.url, decode_responses=True)
        self.simulator = SimulatorProcess(
            directory,
            *("--plain", "--latency", LATENCY, "--kept-pictures", "4096"),
            *("--images", IMAGES, "--in-flight", str(IN_FLIGHT), "--polls", POLLS),
        )
        config = directory / "pixmill.toml"
        config.write_text(
            _config(store or f"file://{directory}/images", self.simulator.base_url.removesuffix("/v1"))
        )
        self.fleet = Fleet(config, self.server.url, {**SECRETS, **(environ or {})}, descriptors)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ended: set[str] = set()  # ids of items that have ended, or are held
        self._read_to = "0-0"

    def set_faults(self, plan: Plan) -> None:
        """Send the faults of the plan to the simulator."""
        url = self.simulator.base_url.removesuffix("/v1") + "/simulator/faults"
        with httpx2.Client(trust_env=False) as http:
            for fault in plan.faults():
                http.post(url, json=fault).raise_for_status()

    def send(self, entry: Entry) -> bool:
        """Send an entry as a producer does; False while Redis is away, but then the entry may have arrived."""
        fields = {"type": entry.type, "data": json.dumps(entry.payload)}
        return self._reply(lambda: self.redis.xadd("pixmill:jobs", fields)) is not None

    def _reply(self, command: Callable[[], Any]) -> Any:
        """The reply of Redis, or None while it is away."""
        try:
            return command()
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            return None

    def follow(self) -> None:
        """Read the next events of the fleet and keep them here, because their stream is trimmed."""
        rows = self._reply(lambda: self.redis.xrange("pixmill:events", f"({self._read_to}", count=5000))
        for name, fields in rows or ():
            self._read_to = name
            kind, data = fields["type"], json.loads(fields["data"])
            self.events.append((kind, data))
            if kind.removeprefix("job.") in (*FINAL, "held") and kind.startswith("job."):
                self.ended.add(data["item"])

    def stored(self) -> set[str]:
        """The items whose picture is in the store."""
        return {path.stem for path in (self.directory / "images").glob("*/*/*/*.*")}

    def records(self, uids: Iterable[str]) -> dict[str, dict[str, str]]:
        """The records of items, by uid."""
        uids = list(uids)
        pipe = self.redis.pipeline(transaction=False)
        for uid in uids:
            pipe.hgetall(f"pixmill:item:{uid}")
        return dict(zip(uids, pipe.execute(), strict=True))

    def leases(self) -> dict[str, int]:
        """Live leases by quota."""
        seconds, micros = self.redis.time()
        now_us = seconds * 1_000_000 + micros
        names = {route: f"pixmill:limiter:{route}:leases" for route in ROUTES}
        return {route: self.redis.zcount(name, now_us, "+inf") for route, name in names.items()}

    def groups(self) -> list[tuple[str, str]]:
        """Every existing stream with its consumer group."""
        streams = [
            (f"pixmill:q:{route}:{lane}", "workers")
            for route, lane in itertools.product(ROUTES, ("high", "normal", "low"))
        ]
        known = [("pixmill:jobs", "intake"), *streams]
        return [(stream, group) for stream, group in known if self.redis.exists(stream)]

    def pending(self) -> dict[str, int]:
        """The number of pending entries, by stream."""
        return {stream: self.redis.xpending(stream, group)["pending"] for stream, group in self.groups()}

    def consumers(self) -> set[str]:
        """The consumers of all groups."""
        return {
            row["name"]
            for stream, group in self.groups()
            for row in self.redis.xinfo_consumers(stream, group)
        }

    def close(self) -> None:
        self.fleet.close()
        self.simulator.stop()
        self.server.close()


def until(check: Callable[[], object], timeout_s: float, look_s: float = LOOK_S) -> bool:
    """Repeat the check until it is true; False if that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(look_s)
    return True


def rate() -> Rate:
    """The rate of each account."""
    return Rate.parse(IMAGES)


def _config(store: str, root: str) -> str:
    parts = [CONFIG.format(store=store)]
    for route, (account, model, timeout_s) in ACCOUNTS.items():
        lines = account.format(root=root)
        if route == "hunyuan":
            lines += '\nsecret_id_env = "CHAOS_ID"\nsecret_key_env = "CHAOS_KEY"'
        else:
            lines += f'\napi_key_env = "CHAOS_{route.upper()}"'
        polls = f'polls = "{POLLS}"' if route in ("zimage", "hunyuan") else ""
        parts.append(
            ACCOUNT.format(route=route, account=lines, model=model, timeout_s=timeout_s, polls=polls)
        )
    return "".join(parts)


def counts_of(group: Mapping[str, str]) -> dict[str, int]:
    """A batch's counts by state."""
    states = ("queued", "throttled", "retry_wait", "running", *FINAL, "held")
    return {state: int(group.get(state, 0)) for state in states}
