"""Every panel and every alert works on what a real Prometheus scrapes from real endpoints."""

from __future__ import annotations

import asyncio
import math
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from redis.asyncio import Redis

from daemon.telemetry.gauges import RedisGauges
from daemon.telemetry.health import health_app
from daemon.telemetry.http_metrics import HttpMetrics
from daemon.telemetry.metrics import Metrics, ProcessMetrics
from limiter.limiter import Limiter
from limiter.quota.quota import InFlight, Quota, Window
from pixmill.records.keys import INTAKE_GROUP, Keys
from providers.http.asgi import AsgiServer
from tests.deploy.files import DEPLOY, RULES, alerts, dashboard, panels, read_yaml
from tests.servers import free_port

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="there is no `prometheus` on PATH to run the queries"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="there is no `promtool` on PATH to check the rules"
)

S = 1_000_000
QUOTA = Quota("simulated", (Window(20, 10 * S, "images"), InFlight(8)))
ROUTE = {"provider": "openai", "route": "default"}
# Its provider has room, and much work waits for it.
UNUSED = Quota("unused", (Window(20, 10 * S, "images"),))
GRAFANA_VARIABLES = {"$__rate_interval": "3s", "$__range": "3s", "$job": ".*", "$route": ".*", "$quota": ".*"}
# A fleet cannot be absent and have data; promtool tests these.
NEED_NOBODY = ("PixmillNoReplica", "PixmillNoGateway")
REQUEST = {"route_template": "/v1/jobs", "method": "POST"}
PATIENCE_S = 20
RULE_TESTS = sorted(path.name for path in RULES.parent.glob("*_test.yml"))


@needs_promtool
@pytest.mark.parametrize(
    "check",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        *(("test", "rules", name) for name in RULE_TESTS),
    ],
)
def test_promtool_agrees(check: tuple[str, str, str]) -> None:
    *command, file = check
    done = subprocess.run(
        ["promtool", *command, str(DEPLOY / "prometheus" / file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_tests_every_alert_both_firing_and_quiet() -> None:
    cases = [
        case
        for name in RULE_TESTS
        for test in read_yaml(DEPLOY / "prometheus" / name)["tests"]
        for case in test["alert_rule_test"]
    ]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case.get("exp_alerts")) is fires} == set(alerts())


@needs_prometheus
async def test_every_panel_shows_data_and_its_legend(redis: Redis, tmp_path: Path) -> None:
    async with sick_fleet(redis) as ports, prometheus(tmp_path, ports) as ask:
        for panel in panels():
            for target in panel["targets"]:
                where = f"panel {panel['title']!r}, query {target['expr']}"
                shown = await until_shown(ask, target["expr"], where)
                wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert wanted <= set(shown), f"{where}: its legend names {wanted}, the result has {shown}"
        for note in dashboard()["annotations"]["list"]:
            shown = await until_shown(ask, note["expr"], f"annotation {note['name']}")
            assert set(re.findall(r"{{(\w+)}}", note["titleFormat"])) <= shown


@needs_prometheus
async def test_every_alert_sees_a_sick_fleet(redis: Redis, tmp_path: Path) -> None:
    async with sick_fleet(redis) as ports, prometheus(tmp_path, ports) as ask:
        for name, expression in alerts().items():
            if name in NEED_NOBODY:
                continue
            await until_shown(ask, expression, f"alert {name}")
        for name in NEED_NOBODY:
            assert (await ask("query", query=alerts()[name]))["result"] == []
        rules = [rule for group in (await ask("rules"))["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}
        assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == set(alerts())


Ask = Callable[..., Awaitable[Any]]


async def until_shown(ask: Ask, expression: str, where: str) -> set[str]:
    """Wait for a number; returns the labels of the result. A query that does not parse fails at once."""
    for variable, value in GRAFANA_VARIABLES.items():
        expression = expression.replace(variable, value)
    result: Any = None
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                result = (await ask("query", query=expression))["result"]
                numbers = [float(sample["value"][1]) for sample in result]
                if any(not math.isnan(number) for number in numbers):
                    return {label for sample in result for label in sample["metric"]}
                await asyncio.sleep(0.1)
    raise AssertionError(f"{where}: no data, but {result}")


@asynccontextmanager
async def prometheus(directory: Path, ports: Mapping[str, int]) -> AsyncIterator[Ask]:
    """A Prometheus with the deployed rules, which scrapes the port of each job, and one more that is down."""
    config = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "300ms")
    config["rule_files"] = [str(RULES)]
    assert {scrape["job_name"] for scrape in config["scrape_configs"]} == set(ports)
    for scrape in config["scrape_configs"]:
        del scrape["dns_sd_configs"]
        both = (ports[scrape["job_name"]], free_port())
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in both]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    listen = f"127.0.0.1:{free_port()}"
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={listen}",
            "--log.level=warn",
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx2.AsyncClient(base_url=f"http://{listen}/api/v1/") as client:

            async def ask(path: str, **params: str) -> Any:
                answer = (await client.get(path, params=params)).json()
                assert answer["status"] == "success", f"{params}: {answer['error']}"
                return answer["data"]

            async with asyncio.timeout(PATIENCE_S):
                while not await _answers(ask):
                    assert process.returncode is None, (directory / "log").read_text()
                    await asyncio.sleep(0.05)
            yield ask
    finally:
        process.kill()
        await process.wait()


async def _answers(ask: Ask) -> bool:
    try:
        return bool((await ask("query", query="pixmill_build_info"))["result"])
    except (httpx2.HTTPError, ValueError):  # not listening yet, or starting: it then answers a plain text
        return False


@asynccontextmanager
async def sick_fleet(redis: Redis) -> AsyncIterator[dict[str, int]]:
    """The ports of a replica and a gateway that count something of everything, work and trouble, all the time."""
    metrics, process = Metrics(), ProcessMetrics()
    http = HttpMetrics(process.registry)
    metrics.know_route("default", "openai", [QUOTA.name], "USD")
    metrics.know_route("idle", "hunyuan", [UNUSED.name])
    metrics.slots.set(64)
    metrics.in_flight.set(64)
    metrics.last_progress_timestamp_seconds.set(time.time() - 3_600)
    limiter = Limiter(redis, "pixmill")
    gauges = RedisGauges(
        redis, Keys("pixmill"), limiter, lambda: {"default": (QUOTA,), "idle": (UNUSED,)}, metrics
    )
    await fill_redis(redis, limiter)
    server = AsgiServer(health_app(metrics, lambda: (False, "It is deaf."), gauges.refresh))
    gateway = AsgiServer(health_app(process, lambda: (False, "It is deaf, too."), nothing))
    await server.start()
    await gateway.start()
    feeder = asyncio.create_task(keep_counting(metrics, http))
    try:
        yield {"pixmill": server.port, "pixmill-gateway": gateway.port}
    finally:
        feeder.cancel()
        await server.stop()
        await gateway.stop()


async def nothing() -> None:
    """A gateway has no gauges to read from Redis."""


async def fill_redis(redis: Redis, limiter: Limiter) -> None:
    await redis.hset("pixmill:depth", "default|normal|queued", 40)
    await redis.hset("pixmill:depth", "default|normal|held", 1)
    await redis.hset("pixmill:depth", "idle|normal|queued", 4_000)
    seconds, _ = await redis.time()
    await redis.zadd("pixmill:waiting:default", {"t//old": (seconds - 7_200) * S})
    await redis.zadd("pixmill:active", {"t/b1": 1})
    await redis.xgroup_create("pixmill:jobs", INTAKE_GROUP, "0", mkstream=True)
    await redis.xadd("pixmill:jobs", {"data": "{}"})
    await limiter.acquire([QUOTA], holder="w", request_id="r", max_wait_s=0)
    await limiter.penalise(QUOTA, retry_after_s=7_200, reason="429")
    await limiter.pause(QUOTA.name, "Its key was refused.")


async def keep_counting(metrics: Metrics, http: HttpMetrics) -> None:
    while True:
        count_once(metrics)
        count_requests_once(http)
        await asyncio.sleep(0.05)


def count_once(metrics: Metrics) -> None:
    metrics.jobs_received.labels(lane="normal").inc()
    for outcome in ("succeeded", "failed"):
        metrics.jobs_finished.labels(route="default", outcome=outcome).inc()
    for kind in ("moderation_input", "auth", "storage"):
        metrics.job_errors.labels(route="default", kind=kind).inc()
    metrics.callbacks.labels(result="gone").inc()
    metrics.cache.labels(result="hit").inc()
    metrics.count_cost("openai", Decimal("0.04"), "USD")
    metrics.retries.labels(route="default", kind="provider_fault").inc()
    metrics.provider_requests.labels(**ROUTE, status="429").inc()
    metrics.provider_429.labels(provider="openai", quota=QUOTA.name).inc()
    metrics.provider_calls.labels(provider="openai", charged="maybe").inc()
    metrics.provider_unreachable.labels(**ROUTE).set(1)
    metrics.poll_gap_seconds.labels(route="default").observe(0.2)
    metrics.limiter_grants.labels(quota=QUOTA.name).inc()
    metrics.limiter_cooldowns.labels(quota=QUOTA.name).inc()
    metrics.dead_letters.labels(reason="poison").inc()
    for counter in (
        metrics.limiter_errors,
        metrics.reclaimed,
        metrics.entries_lost,
        metrics.duplicate_results,
    ):
        counter.inc()
    metrics.images.labels(**ROUTE).inc()
    metrics.image_bytes.inc(1_500_000)
    metrics.image_size_bytes.observe(1_500_000)
    metrics.provider_latency_seconds.labels(**ROUTE).observe(8)
    metrics.queue_seconds.labels(route="default").observe(40)
    metrics.job_seconds.labels(route="default").observe(50)
    metrics.limiter_wait_seconds.labels(quota=QUOTA.name).observe(0.5)
    metrics.persist_seconds.observe(0.02)


def count_requests_once(http: HttpMetrics) -> None:
    for status in ("202", "500", "503"):
        http.http_requests.labels(**REQUEST, status=status).inc()
        http.http_request_seconds.labels(**REQUEST).observe(0.004)
    http.http_listeners.set(3)
    http.http_resyncs.inc()
