"""The processes of the fleet, and what an operator and a producer do to it."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import redis
from typer.testing import CliRunner

from daemon.cli.main import app
from tests.deploy.fleet.prometheus import Prometheus, is_there
from tests.e2e.processes import Command, SimulatorProcess, wait_until
from tests.e2e.receiver import SECRET, Receiver
from tests.object_stores import SmallDisk
from tests.servers import RedisServer, free_port

REPLICAS = 3
SLOTS = 4  # of each
LEASE_S = 2
DISK = "24m"
CONFIG = f"""
[redis]
url = "{{redis_url}}"
[worker]
lease = "{LEASE_S}s"
drain_timeout = "10s"
max_in_flight = {SLOTS}
[storage]
url = "file://{{directory}}/images"
[network]
allow_hosts = ["127.0.0.1"]
[webhooks.default]
secret_env = "FLEET_WEBHOOK"
[gateway]
listen = "127.0.0.1:{{gateway_port}}"
"""
# By route: the account, the model, the quota.
ACCOUNTS = {
    "default": ('provider = "openai"\nbase_url = "{root}/v1"', "sim-1", 'images = "600/min"\nin_flight = 64'),
    "tasks": (
        'provider = "zimage"\nbase_url = "{root}/modelscope"',
        "Tongyi-MAI/Z-Image-Turbo",
        "in_flight = 8",
    ),
    "costs": (
        'provider = "openrouter"\nbase_url = "{root}/api/v1"',
        "google/gemini-3.1-flash-image",
        'images = "600/min"',
    ),
    # An hour of work waits here for its quota, if it is sent a hundred items.
    "idle": (
        'provider = "zimage"\nbase_url = "{root}/modelscope"',
        "Tongyi-MAI/Z-Image-Turbo",
        'images = "2/min"',
    ),
    "spare": ('provider = "openai"\nbase_url = "{root}/v1"', "sim-1", "in_flight = 8"),
    # Nothing listens at the port `discard`.
    "nowhere": ('provider = "openai"\nbase_url = "http://127.0.0.1:9/v1"', "sim-1", "in_flight = 8"),
}


class Stage:
    """A Redis, a simulator, a receiver of callbacks, replicas, a gateway, and a Prometheus where there is one.

    `pictures` is None where this user may mount no file system; pictures then go to the disk of the directory.
    """

    def __init__(self, directory: Path, *, aof: bool) -> None:
        self.directory = directory
        self._parts = ExitStack()
        try:
            self._begin(directory, aof=aof)
        except BaseException:
            self.close()  # nobody else knows the parts that have started
            raise

    def _begin(self, directory: Path, *, aof: bool) -> None:
        self.server = RedisServer(persistent=aof)
        self._parts.callback(self.server.close)
        self.redis: Any = redis.Redis.from_url(self.server.url, decode_responses=True)
        self._parts.callback(self.redis.close)
        self.simulator_port = free_port()
        self.receiver = Receiver()
        self._parts.callback(self.receiver.close)
        self.pictures = _small_disk(directory / "images")
        if self.pictures is not None:
            self._parts.callback(self.pictures.close)
        self.ports = [free_port() for _ in range(REPLICAS)]
        self.gateway_ports = (free_port(), free_port())  # of HTTP, of /metrics
        self.simulator = self.start_simulator()
        for name in ACCOUNTS:
            self.set_key(name, key_of(name))
        (directory / "pixmill.toml").write_text(self._config())
        self.replicas = [self.start_replica(number) for number in range(REPLICAS)]
        self.gateway = self._start("gateway", self.gateway_ports[1])
        self.prometheus = self._watch() if is_there() else None
        if self.prometheus is not None:
            self._parts.callback(self.prometheus.close)
        for command in self.commands:
            command.wait_for("started")
        self.http = httpx2.Client(
            base_url=f"http://127.0.0.1:{self.gateway_ports[0]}", trust_env=False, timeout=60
        )
        self._parts.callback(self.http.close)

    @property
    def commands(self) -> list[Command]:
        return [*self.replicas, self.gateway]

    def _config(self) -> str:
        config = CONFIG.format(
            redis_url=self.server.url, directory=self.directory, gateway_port=self.gateway_ports[0]
        )
        for name, (account, model, quota) in ACCOUNTS.items():
            lines = account.format(root=f"http://127.0.0.1:{self.simulator_port}")
            config += f'[credentials.{name}]\n{lines}\napi_key_file = "{self.directory}/{name}.key"\n'
            config += f"[quotas.{name}]\n{quota}\n"
            config += f'[routes.{name}]\ncredential = "{name}"\nmodel = "{model}"\nquotas = ["{name}"]\n'
        return config

    def _watch(self) -> Prometheus:
        return Prometheus(
            self.directory / "prometheus",
            {"pixmill": self.ports, "pixmill-gateway": [self.gateway_ports[1]]},
        )

    def start_simulator(self, **keys: str) -> SimulatorProcess:
        """The provider's service, which knows the first key of each account, or the given one."""
        known = {name: key_of(name) for name in ACCOUNTS} | keys
        options = [word for key in known.values() for word in ("--api-key", key)]
        options += ["--plain", "--latency", "0.1-0.3", "--timed-prompts", "--port", str(self.simulator_port)]
        simulator = SimulatorProcess(self.directory, *options)
        self._parts.callback(simulator.stop)
        return simulator

    def set_key(self, account: str, key: str) -> None:
        """Write an account's key where the replicas read it at their start."""
        path = self.directory / f"{account}.key"
        path.write_text(key)
        path.chmod(0o600)

    def start_replica(self, number: int) -> Command:
        return self._start("worker", self.ports[number])

    def _start(self, role: str, port: int) -> Command:
        command = Command(
            [role, "--config", str(self.directory / "pixmill.toml")],
            self.directory,
            PIXMILL_METRICS__LISTEN=f"127.0.0.1:{port}",
            FLEET_WEBHOOK=SECRET,
        )
        self._parts.callback(_end, command)
        return command

    def supervise(self) -> None:
        """Start again each replica that has ended, as a supervisor does."""
        for number, replica in enumerate(self.replicas):
            if replica.process.poll() is not None:
                self.replicas[number] = self.start_replica(number)

    def pixmill(self, *words: str, may_fail: bool = False) -> str:
        """Run a command of the operator in this process; its output."""
        done = CliRunner().invoke(app, [*words, "--config", str(self.directory / "pixmill.toml")])
        assert may_fail or done.exit_code == 0, f"pixmill {' '.join(words)}: {done.output} {done.exception}"
        return done.output

    def send(self, ident: str, prompt: str, **more: Any) -> None:
        """Send a job as a producer does."""
        fields = {"id": ident, "prompt": prompt, "output": {"thumbnail": False}, **more}
        self.redis.xadd("pixmill:jobs", {"data": json.dumps(fields)})

    def send_batch(self, ident: str, prompts: list[str], **defaults: Any) -> None:
        items = [{"id": f"i{number}", "prompt": prompt} for number, prompt in enumerate(prompts)]
        defaults = {"output": {"thumbnail": False}, **defaults}
        data = json.dumps({"id": ident, "items": items, "defaults": defaults})
        self.redis.xadd("pixmill:jobs", {"type": "pixmill.batch.v1", "data": data})

    def record(self, ident: str) -> dict[str, str]:
        """The record of a job, or of `BATCH/ITEM`."""
        name = f"default/{ident}" if "/" in ident else f"default//{ident}"
        record: dict[str, str] = self.redis.hgetall(f"pixmill:item:{name}")
        return record

    def until(self, ident: str, *states: str, timeout_s: float = 60) -> str:
        """Wait until a job is in one of the states; which one it is."""
        return str(
            wait_until(
                lambda: next((s for s in states if self.record(ident).get("state") == s), None),
                timeout_s,
                lambda: f"{ident} is not {states}: {self.record(ident)}\n{self.logs()}",
            )
        )

    def until_batch_ends(self, ident: str, timeout_s: float = 60) -> str:
        """Wait for the end of a batch; its state."""
        states = ("completed", "completed_with_errors", "failed", "cancelled")
        key = f"pixmill:batch:default/{ident}"
        return str(
            wait_until(
                lambda: next((s for s in states if self.redis.hget(key, "state") == s), None),
                timeout_s,
                lambda: f"batch {ident} does not end: {self.redis.hgetall(key)}\n{self.logs()}",
            )
        )

    def running_on(self, ident: str) -> int | None:
        """The number of the replica that runs a job, if one does."""
        record = self.record(ident)
        if record.get("state") != "running":
            return None
        numbers = (n for n, each in enumerate(self.replicas) if f"-{each.process.pid}-" in record["worker"])
        return next(numbers, None)

    def ready(self) -> list[bool]:
        """Whether each replica answers 200 on /readyz."""
        return [_answers(f"http://127.0.0.1:{port}/readyz") for port in self.ports]

    def logs(self) -> str:
        return "\n\n".join(command.output[-2000:] for command in self.commands)

    def close(self) -> None:
        """End every part that has started; the last one first."""
        self._parts.close()


def _end(command: Command) -> None:
    command.process.send_signal(signal.SIGCONT)
    command.kill()


def key_of(account: str) -> str:
    """The first key of an account."""
    return f"sk-fleet-{account}"


def _small_disk(directory: Path) -> SmallDisk | None:
    try:
        return SmallDisk(directory, DISK)
    except OSError:
        return None


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False
