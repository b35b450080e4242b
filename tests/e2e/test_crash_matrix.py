"""One worker is killed with an item at every step of its life: calls, events, counts and places must be right.

All items of the matrix stand at their steps in one worker (stopping_worker.py) when SIGKILL comes; an undisturbed one
takes them over. Each test is one claim about that one run, by the simulator's books and by ours.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import redis

from tests.e2e.processes import Command, SimulatorProcess, wait_until
from tests.servers import RedisServer

CONFIG = """
[redis]
url = "{redis_url}"
[worker]
lease = "1s"
[storage]
url = "file://{directory}/images"
[metrics]
listen = "127.0.0.1:0"
[credentials.sync]
provider = "openai"
base_url = "{root}/v1"
api_key_env = "MATRIX_KEY"
[credentials.task]
provider = "zimage"
base_url = "{root}/modelscope"
api_key_env = "MATRIX_KEY"
[credentials.signed]
provider = "hunyuan"
wire = "tc3"
base_url = "{root}"
secret_id_env = "MATRIX_ID"
secret_key_env = "MATRIX_SECRET"
[quotas.sync]
in_flight = 64
[quotas.task]
in_flight = 64
[quotas.signed]
in_flight = 64
[routes.openai]
credential = "sync"
model = "sim-1"
quotas = ["sync"]
provider_timeout = "30s"
[routes.zimage]
credential = "task"
model = "Tongyi-MAI/Z-Image-Turbo"
quotas = ["task"]
provider_timeout = "30s"
[routes.hunyuan]
credential = "signed"
model = "hy-image-v3.0"
quotas = ["signed"]
provider_timeout = "30s"
"""
SECRETS = {
    "MATRIX_KEY": "sk-planted-matrix-key",
    "MATRIX_ID": "AKIDsimulator",
    "MATRIX_SECRET": "the-simulator-has-no-secrets",
}
BATCH = "matrix"
POLICIES = ("retry_once", "hold", "fail")
# In the order in which an item passes them. A synchronous provider has no receipt, no polls, and here no download.
POINTS = {
    "openai": ("intent", "connect", "sent", "answer", "store", "settle"),
    "zimage": ("intent", "connect", "sent", "answer", "receipt", "poll", "download", "store", "settle"),
    "hunyuan": ("connect", "answer", "receipt"),
}
# Steps behind the intent at which not one byte has left.
UNSENT = {"intent", "connect"}
# Steps at which the charge of the call is unknown.
UNKNOWN = {
    "openai": {*UNSENT, "sent", "answer"},
    "zimage": {*UNSENT, "sent", "answer"},
    "hunyuan": {"connect", "answer"},
}


class Case(NamedTuple):
    """An item; its name holds the step at which the worker stops."""

    route: str
    point: str
    policy: str

    @property
    def item(self) -> str:
        return f"{self.route}-{self.point}-{self.policy}"

    @property
    def unknown(self) -> bool:
        return self.point in UNKNOWN[self.route]


CASES = [Case(route, point, policy) for route in POINTS for point in POINTS[route] for policy in POLICIES]
TWICE = [Case("openai", "twice", "retry_once"), Case("zimage", "twice", "retry_once")]
ITEMS = CASES + TWICE


@dataclass
class Story:
    """The simulator's books, the records, the metrics and the events after the run."""

    calls: dict[str, int] = field(default_factory=dict)
    billed: Counter[str] = field(default_factory=Counter)
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)  # provider and charged, all workers
    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    counts: dict[str, int] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    leases: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    output: str = ""

    def account(self, case: Case) -> dict[str, int]:
        """The item's calls by whether they are charged, as its record has them."""
        record = self.records[case.item]
        return {charged: int(record.get(f"calls_{charged}", 0)) for charged in ("no", "maybe", "yes")}


class Stage:
    """A simulator, a server, and the workers that come and go."""

    def __init__(self, directory: Path, server: RedisServer) -> None:
        self.directory = directory
        self.simulator = SimulatorProcess(directory, "--plain", "--latency", "0.05-0.1")
        self.redis: Any = redis.Redis.from_url(server.url, decode_responses=True)
        self.redis.flushall()
        self.config = directory / "pixmill.toml"
        root = self.simulator.base_url.removesuffix("/v1")
        self.config.write_text(CONFIG.format(redis_url=server.url, directory=directory, root=root))
        self.workers: list[Command] = []
        self.counted: Counter[tuple[str, str]] = Counter()

    def start(self, *points: str) -> Command:
        arguments = [",".join(points), "worker", "--config", str(self.config)]
        worker = Command(arguments, self.directory, module="tests.e2e.stopping_worker", **SECRETS)
        self.workers.append(worker)
        worker.wait_for("replica started")
        return worker

    def submit(self) -> None:
        items = [
            {
                "id": case.item,
                "route": case.route,
                "prompt": f"a kettle, {case.item}.",
                "on_unknown_outcome": case.policy,
            }
            for case in ITEMS
        ]
        payload = {"id": BATCH, "defaults": {"output": {"thumbnail": False}}, "items": items}
        self.redis.xadd("pixmill:jobs", {"type": "pixmill.batch.v1", "data": json.dumps(payload)})

    def stand(self, worker: Command, cases: list[Case]) -> None:
        """Wait until each of these stands at its step in this worker."""

        def missing() -> set[str]:
            reached = {line.removeprefix("reached ").rstrip(".") for line in list(worker.lines)}
            sent = {
                prompt.partition(", ")[2].rstrip(".") for prompt in self.simulator.ledger()["calls_by_prompt"]
            }
            return {case.item for case in cases} - reached - {name for name in sent if "-sent-" in name}

        wait_until(lambda: not missing(), 20, lambda: f"{missing()}\n{worker.output[-4000:]}")

    def kill(self, worker: Command) -> None:
        """SIGKILL, right after its metrics were scraped."""
        self._scrape(worker)
        worker.kill()

    def _scrape(self, worker: Command) -> None:
        url = re.search(r"http://\S+/metrics", worker.wait_for("replica started"))
        assert url is not None
        text = httpx2.get(url[0].strip("'\""), trust_env=False).text
        for line in text.splitlines():
            if line.startswith("pixmill_provider_calls_total{"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                self.counted[labels["provider"], labels["charged"]] += int(float(line.split()[-1]))

    def states(self) -> dict[str, str]:
        return {
            case.item: self.redis.hget(f"pixmill:item:default/{BATCH}/{case.item}", "state") or ""
            for case in ITEMS
        }

    def rest(self, cases: list[Case], worker: Command) -> None:
        """Wait until these have ended or are held."""
        wanted = {case.item for case in cases}

        def moving() -> dict[str, str]:
            over = ("succeeded", "failed", "held")
            return {
                item: state for item, state in self.states().items() if item in wanted and state not in over
            }

        wait_until(lambda: not moving(), 25, lambda: f"{moving()}\n{worker.output[-4000:]}")

    def story(self, worker: Command) -> Story:
        self._scrape(worker)
        story = Story(counted=self.counted)
        ledger = self.simulator.ledger(entries=True)
        for call in ledger["entries"]:
            story.billed[_item(call["prompt"])] += call["billed"]
        story.calls = {_item(prompt): count for prompt, count in ledger["calls_by_prompt"].items()}
        for case in ITEMS:
            story.records[case.item] = self.redis.hgetall(f"pixmill:item:default/{BATCH}/{case.item}")
        for _, fields in self.redis.xrange("pixmill:events"):
            if fields["type"].startswith("job."):
                story.events[fields["type"], json.loads(fields["data"])["item"]] += 1
        group = self.redis.hgetall(f"pixmill:batch:default/{BATCH}")
        story.counts = {name: int(value) for name, value in group.items() if value.isdigit()}
        story.dead = [
            json.loads("{" + fields["ids"].strip("{}") + "}")["item"]
            for _, fields in self.redis.xrange("pixmill:dead")
        ]
        # Places of calls without a reply end with their leases.
        wait_until(lambda: not any(self._places().values()), 15, lambda: str(self._places()))
        story.leases = self._places()
        for route in POINTS:
            story.pending[route] = self.redis.xpending(f"pixmill:q:{route}:normal", "workers")["pending"]
        story.output = "\n".join(each.output for each in self.workers)
        return story

    def _places(self) -> dict[str, int]:
        """How many leases count, by quota."""
        now_us = time.time_ns() // 1000
        keys = {quota: f"pixmill:limiter:{quota}:leases" for quota in ("sync", "task", "signed")}
        return {quota: self.redis.zcount(key, now_us, "+inf") for quota, key in keys.items()}

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.simulator.stop()


def _item(prompt: str) -> str:
    return prompt.partition(", ")[2].rstrip(".")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("matrix"), redis_server)
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def story(stage: Stage) -> Story:
    for route in ("openai", "zimage"):
        for policy in POLICIES:
            stage.simulator.do("hang", prompt=f"{route}-sent-{policy}.")
    first = stage.start(
        "intent", "connect", "answer", "receipt", "poll", "download", "store", "settle", "twice"
    )
    stage.submit()
    stage.stand(first, ITEMS)
    stage.kill(first)
    second = stage.start("twice")
    stage.rest(CASES, second)
    stage.stand(second, TWICE)
    stage.kill(second)
    third = stage.start("none")
    stage.rest(ITEMS, third)
    return stage.story(third)


def arrived(case: Case) -> int:
    """Calls that the provider had got from the first worker."""
    return 0 if case.point in UNSENT else 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.item)
def test_a_picture_is_bought_again_only_where_its_job_allows_it(story: Story, case: Case) -> None:
    again = 1 if case.unknown and case.policy == "retry_once" else 0
    assert story.calls.get(case.item, 0) == arrived(case) + again
    states = {"retry_once": "succeeded", "hold": "held", "fail": "failed"}
    assert story.records[case.item]["state"] == (states[case.policy] if case.unknown else "succeeded")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.item)
def test_each_call_is_in_the_items_account_once(story: Story, case: Case) -> None:
    account = story.account(case)
    made = story.records[case.item]["state"] == "succeeded"
    assert account == {"no": 0, "maybe": int(case.unknown), "yes": int(made)}
    # A call that counts as `maybe` was charged here, unless it was an intent that was never sent.
    never_sent = arrived(case) == 0
    assert story.billed[case.item] == account["yes"] + account["maybe"] - never_sent


@pytest.mark.parametrize("case", TWICE, ids=lambda case: case.item)
def test_a_second_lost_answer_ends_the_item_and_no_third_call_is_made(story: Story, case: Case) -> None:
    assert story.calls[case.item] == 2
    assert story.records[case.item]["state"] == "failed"
    assert story.account(case) == {"no": 0, "maybe": 2, "yes": 0}
    assert story.billed[case.item] == 2
    assert case.item in story.dead


def test_all_workers_metrics_sum_to_the_accounts_and_the_simulators_books(
    story: Story,
) -> None:
    accounts: Counter[tuple[str, str]] = Counter()
    for case in ITEMS:
        for charged, count in story.account(case).items():
            accounts[case.route, charged] += count
    assert +story.counted == +accounts
    never_sent = sum(arrived(case) == 0 for case in ITEMS)
    assert sum(story.billed.values()) == sum(story.counted.values()) - never_sent


def test_every_item_ended_once_and_the_counts_of_the_batch_sum(story: Story) -> None:
    for case in ITEMS:
        ends = ("job.succeeded", "job.failed", "job.held", "job.cancelled", "job.expired")
        assert sum(story.events[kind, case.item] for kind in ends) == 1, case.item
    held = sum(case.unknown and case.policy == "hold" for case in CASES)
    failed = sum(case.unknown and case.policy == "fail" for case in CASES) + len(TWICE)
    assert (story.counts["held"], story.counts["failed"]) == (held, failed)
    assert story.counts["succeeded"] == story.counts["total"] - held - failed
    assert not any(story.counts[name] for name in ("queued", "running", "retry_wait", "throttled"))


def test_all_places_in_flight_are_back_and_nothing_is_pending(story: Story) -> None:
    assert set(story.leases.values()) == {0}
    assert set(story.pending.values()) == {0}


def test_an_item_that_went_on_with_its_task_names_it(story: Story) -> None:
    for case in CASES:
        if case.route != "openai" and not case.unknown:
            result = json.loads(story.records[case.item]["result"])
            assert result["provider_task_id"] == json.loads(story.records[case.item]["receipt"])["task_id"]


def test_no_secret_of_an_account_is_in_any_output_or_record(story: Story, stage: Stage) -> None:
    for secret in (SECRETS["MATRIX_KEY"], SECRETS["MATRIX_SECRET"]):
        assert secret not in story.output
        assert all(secret not in json.dumps(record) for record in story.records.values())
