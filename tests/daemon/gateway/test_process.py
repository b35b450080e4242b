"""`pixmill gateway` and the gateway of `pixmill up` as processes: how they start, what they need, how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.daemon.gateway.compat.decks import DECK
from tests.e2e.processes import Command, wait_until
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.timeout(120)

ROUTES = """
[credentials.main]
provider = "openai"
api_key_env = "KEY_THAT_NO_GATEWAY_HAS"

[routes.default]
credential = "main"
model = "gpt-image-2"
"""


@dataclass
class Process:
    """A gateway in a process of its own, with its two addresses."""

    command: Command
    url: str
    metrics: str


def command(tmp_path: Path, redis_server: RedisServer, text: str = ROUTES, **environ: str) -> Command:
    (tmp_path / "pixmill.toml").write_text(text)
    settings = {
        "PIXMILL_REDIS__URL": redis_server.url,
        "PIXMILL_STORAGE__URL": f"file://{tmp_path}/images",
        "PIXMILL_GATEWAY__LISTEN": "127.0.0.1:0",
        "PIXMILL_METRICS__LISTEN": "127.0.0.1:0",
    }
    return Command(["gateway"], tmp_path, **{**settings, **environ})


@contextmanager
def running(tmp_path: Path, redis_server: RedisServer) -> Iterator[Process]:
    listen = f"127.0.0.1:{free_port()}"
    started = command(tmp_path, redis_server, PIXMILL_METRICS__LISTEN=listen)
    try:
        line = json.loads(started.wait_for("gateway started"))
        yield Process(started, line["url"], f"http://{listen}")
    finally:
        started.stop()


def test_a_gateway_needs_no_secret_of_a_provider(tmp_path: Path, redis_server: RedisServer) -> None:
    with running(tmp_path, redis_server) as gateway, httpx2.Client(trust_env=False) as http:
        answer = http.post(f"{gateway.url}/v1/jobs", json={"id": "j1", "prompt": "a red kettle"})
        assert (answer.status_code, answer.json()["state"]) == (202, "queued")


def test_a_gateway_shows_its_health_and_its_metrics_and_ends_with_0(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with running(tmp_path, redis_server) as gateway, httpx2.Client(trust_env=False) as http:
        assert http.get(f"{gateway.metrics}/healthz").status_code == 200
        wait_until(lambda: http.get(f"{gateway.metrics}/readyz").status_code == 200, 20)
        http.get(f"{gateway.url}/v1/me")
        text = http.get(f"{gateway.metrics}/metrics").text
        labels = 'method="GET",route_template="/v1/me",status="200"'
        assert f"pixmill_http_requests_total{{{labels}}} 1.0" in text
        for name in ("http_request_seconds_bucket", "http_listeners", "http_resyncs_total", "ready"):
            assert f"\npixmill_{name}" in text
        assert gateway.command.stop() == 0


def test_a_redis_that_is_away_ends_no_gateway(tmp_path: Path) -> None:
    server = RedisServer()
    server.kill()
    try:
        with running(tmp_path, server) as gateway, httpx2.Client(trust_env=False) as http:
            wait_until(lambda: http.get(f"{gateway.metrics}/readyz").status_code == 503, 20)
            assert http.get(f"{gateway.metrics}/healthz").status_code == 200
            answer = http.post(f"{gateway.url}/v1/jobs", json={"id": "j1", "prompt": "a red kettle"})
            assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
            server.start()
            wait_until(lambda: http.get(f"{gateway.metrics}/readyz").status_code == 200, 20)
    finally:
        server.close()


def test_the_log_names_a_request_as_its_answer_does(tmp_path: Path, redis_server: RedisServer) -> None:
    with running(tmp_path, redis_server) as gateway:
        sent = {"X-Request-Id": "planted-request-7", "Authorization": "Bearer pxm_planted"}
        answer = httpx2.post(f"{gateway.url}/v1/jobs", content=b"{", headers=sent, trust_env=False)
        assert answer.headers["x-request-id"] == "planted-request-7"
        line = json.loads(gateway.command.wait_for("planted-request-7"))
        assert line["request"] == "planted-request-7"
        assert (line["method"], line["route"]) == ("POST", "/v1/jobs")
        assert line["status"] == answer.status_code
        assert "pxm_planted" not in gateway.command.output


@pytest.mark.parametrize("setting", ["gateway", "metrics"])
def test_a_port_that_is_taken_ends_it_with_2(tmp_path: Path, redis_server: RedisServer, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = command(tmp_path, redis_server, **{f"PIXMILL_{setting.upper()}__LISTEN": listen})
        assert ended.process.wait(60) == 2
    wait_until(lambda: "Cannot listen" in ended.output, 5, lambda: ended.output)
    assert f"`{setting}.listen`: Cannot listen on {listen}" in ended.output
    assert "Traceback" not in ended.output


def test_a_file_of_keys_that_is_missing_ends_it_with_2(tmp_path: Path, redis_server: RedisServer) -> None:
    ended = command(tmp_path, redis_server, PIXMILL_GATEWAY__KEYS_FILE=str(tmp_path / "keys.json"))
    assert ended.process.wait(60) == 2
    wait_until(lambda: "is not there" in ended.output, 5, lambda: ended.output)
    assert "`pixmill key new NAME` makes it" in ended.output
    assert "Traceback" not in ended.output


def test_no_route_ends_it_with_2(tmp_path: Path, redis_server: RedisServer) -> None:
    ended = command(tmp_path, redis_server, "")
    assert ended.process.wait(60) == 2
    wait_until(lambda: "No route is configured" in ended.output, 5, lambda: ended.output)
    assert "Traceback" not in ended.output


# Starlette loads python_multipart by itself where that is installed; a worker has Starlette for its health.
REPORTS = """
import atexit, sys
HEAVY = ("fastapi", "daemon.gateway.app")
atexit.register(lambda: print("loaded:", [name for name in HEAVY if name in sys.modules], flush=True))
sys.argv = ["pixmill", "worker"]
import runpy
runpy.run_module("daemon", run_name="__main__")
"""


def test_a_worker_never_loads_what_only_a_gateway_needs(tmp_path: Path, redis_server: RedisServer) -> None:
    (tmp_path / "pixmill.toml").write_text(ROUTES)
    environ = {
        "PIXMILL_REDIS__URL": redis_server.url,
        "PIXMILL_METRICS__LISTEN": "127.0.0.1:0",
        "PIXMILL_STORAGE__URL": f"file://{tmp_path}/images",
        "KEY_THAT_NO_GATEWAY_HAS": "sk-test",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    worker = subprocess.Popen(
        [sys.executable, "-c", REPORTS],
        cwd=tmp_path,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert worker.stdout is not None
    for line in worker.stdout:
        if "replica started" in line:
            worker.send_signal(signal.SIGTERM)
        last = line
    assert worker.wait(30) == 0
    assert last == "loaded: []\n"


def test_a_bare_up_makes_the_pictures_of_a_deck_at_once(tmp_path: Path) -> None:
    up = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path, PIXMILL_GATEWAY__LISTEN="127.0.0.1:0")
    try:
        up.wait_for("Ctrl-C stops")
        url = up.wait_for("  http ").split()[-1]
        answer = httpx2.post(f"{url}/api/slide/batch/generate", json=DECK, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert [result["status"] for result in answer.json()["results"]] == ["success"] * 2
    finally:
        up.stop()
