"""`pixmill up` on a machine without a Redis: a job in, a picture out, and nothing lost by a restart."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.daemon.broker.test_embedded import servers_in
from tests.e2e.processes import Command, SimulatorProcess, wait_until
from tests.servers import RedisServer


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Command]:
    command = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path)
    command.wait_for("Ctrl-C stops")
    yield command
    command.stop()


def client_of(command: Command) -> Any:
    url = command.wait_for("redis://").split()[-1]
    return redis.Redis.from_url(url)


def test_the_printed_xadd_line_gives_a_picture_on_disk_and_an_event(up: Command, tmp_path: Path) -> None:
    line = up.wait_for("XADD").strip()
    words = shlex.split(line)
    client = client_of(up)
    if shutil.which("redis-cli"):
        subprocess.run(words, check=True, capture_output=True)
    else:
        client.execute_command(*words[words.index("XADD") :])

    def succeeded() -> list[dict[str, Any]]:
        rows = client.xrange("pixmill:events")
        return [json.loads(fields[b"data"]) for _, fields in rows if fields[b"type"] == b"job.succeeded"]

    (event,) = wait_until(succeeded, 20, lambda: up.output)
    assert (event["tenant"], event["job"], event["batch"]) == ("default", "hello-1", None)
    (image,) = event["images"]
    path = Path(image["url"].removeprefix("file://"))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.is_relative_to(tmp_path / ".pixmill" / "images")


def test_other_commands_know_the_quota_of_a_bare_up(up: Command, tmp_path: Path) -> None:
    command = Command(["quotas"], tmp_path)
    command.wait_for("simulator (images 20/10s, in_flight 8)")
    assert command.process.wait(60) == 0


def test_it_works_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", "up", "--metrics", "127.0.0.1:0", "--log-level", "info"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "Ctrl-C stops" not in lines[-1]:
        lines.append(process.stdout.readline())
    process.stdout.close()
    (url,) = (line.split()[-1] for line in lines if "redis://" in line and "XADD" not in line)
    client = redis.Redis.from_url(url)
    client.xadd("pixmill:jobs", {"data": '{"id":"j1","prompt":"a red kettle"}'})
    # A line of the log that meets a closed pipe looked like a Redis that does not answer.
    wait_until(lambda: client.hget("pixmill:item:default//j1", "state") == b"succeeded", 20)
    process.terminate()
    assert process.wait(30) == 0
    with pytest.raises(redis.ConnectionError):
        client.ping()


def test_metrics_and_health_answer(up: Command) -> None:
    import httpx2

    root = up.wait_for("/metrics").split()[-1].removesuffix("/metrics")
    assert httpx2.get(f"{root}/healthz", trust_env=False).status_code == 200
    ready = wait_until(lambda: httpx2.get(f"{root}/readyz", trust_env=False).status_code == 200, 10)
    assert ready
    text = httpx2.get(f"{root}/metrics", trust_env=False).text
    for name in (
        "pixmill_provider_429_total",
        "pixmill_provider_latency_seconds_bucket",
        "pixmill_queue_depth",
    ):
        assert re.search(rf"^{name}\b", text, re.MULTILINE), name


def test_jobs_that_wait_survive_a_restart_even_by_sigkill(tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text('[worker]\nlease = "2s"\n')
    first = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path)
    first.wait_for("Ctrl-C stops")
    client = client_of(first)
    for number in range(30):
        client.xadd("pixmill:jobs", {"data": json.dumps({"id": f"j{number}", "prompt": f"vase {number}"})})
    wait_until(lambda: client.zcard("pixmill:waiting:default") >= 5, 20)
    first.kill()

    second = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path)
    try:
        second.wait_for("Ctrl-C stops")
        again = client_of(second)

        def succeeded() -> list[str]:
            rows = [
                fields for _, fields in again.xrange("pixmill:events") if fields[b"type"] == b"job.succeeded"
            ]
            return [json.loads(fields[b"data"])["job"] for fields in rows]

        wait_until(lambda: len(succeeded()) >= 30, 50, lambda: second.output)
        assert sorted(succeeded()) == sorted(f"j{number}" for number in range(30))
        assert len(list((tmp_path / ".pixmill/images").rglob("*.png"))) == 30
    finally:
        second.stop()
        with suppress(redis.ConnectionError):
            client.shutdown(save=False)  # the first one's server outlives its SIGKILL


def test_after_a_stop_no_server_is_left_behind(tmp_path: Path) -> None:
    command = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path)
    command.wait_for("Ctrl-C stops")
    client = client_of(command)
    assert client.ping()
    assert command.stop() == 0
    with pytest.raises(redis.ConnectionError):
        client.ping()


def server_ended(client: Any) -> bool:
    try:
        client.ping()
    except redis.ConnectionError:
        return True
    return False


def test_two_signals_at_once_are_one_and_the_drain_is_not_skipped(tmp_path: Path) -> None:
    command = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path)
    command.wait_for("Ctrl-C stops")
    client = client_of(command)
    for number in (signal.SIGTERM, signal.SIGINT):  # two of one kind may arrive as one
        command.process.send_signal(number)
    assert command.process.wait(20) == 0
    assert "Stopping" in command.output
    assert server_ended(client)


def test_an_impatient_signal_leaves_no_server_behind(tmp_path: Path) -> None:
    simulator = SimulatorProcess(tmp_path, "--plain", "--latency", "300")
    (tmp_path / "pixmill.toml").write_text(
        f'[credentials.a]\nprovider = "openai"\nbase_url = "{simulator.base_url}"\napi_key_env = "A_KEY"\n'
        '[routes.default]\ncredential = "a"\nmodel = "m"\n'
    )
    command = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path, A_KEY="sk-test")
    try:
        command.wait_for("Ctrl-C stops")
        client = client_of(command)
        client.xadd("pixmill:jobs", {"data": '{"id":"slow","prompt":"a vase"}'})
        wait_until(lambda: any(f[b"type"] == b"job.started" for _, f in client.xrange("pixmill:events")), 20)
        command.process.send_signal(signal.SIGTERM)
        command.wait_for("Stopping")

        def left() -> bool:
            with suppress(ProcessLookupError):
                os.kill(command.process.pid, signal.SIGTERM)
            return command.process.poll() is not None

        wait_until(left, 20, lambda: command.output)
        assert command.process.returncode == 130
        wait_until(lambda: server_ended(client), 10)
    finally:
        command.kill()
        simulator.stop()


@pytest.mark.parametrize("sign", ["server.log", "server.json"])
def test_a_signal_during_the_start_leaves_no_server_behind(tmp_path: Path, sign: str) -> None:
    directory = tmp_path / ".pixmill" / "redis"
    command = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path)
    try:
        wait_until((directory / sign).exists, 20, lambda: command.output)
        assert command.stop() == 0
        assert servers_in(directory) == []
    finally:
        for pid in servers_in(directory):
            os.kill(pid, signal.SIGKILL)


def test_up_reports_a_redis_that_is_away_and_waits_for_it(tmp_path: Path) -> None:
    server = RedisServer()
    server.kill()
    command = Command(["up", "--metrics", "127.0.0.1:0", "--redis-url", server.url], tmp_path)
    try:
        line = command.wait_for("waiting for it")
        assert line.startswith(f"{server.url} does not answer")
        assert "Pixmill is up" not in command.output
        server.start()
        command.wait_for("Pixmill is up")
    finally:
        command.stop()
        server.close()


def test_a_redis_that_refuses_the_password_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    server = RedisServer()
    url = server.url.replace("redis://", "redis://nobody:planted-password@")
    command = Command(["up", "--metrics", "127.0.0.1:0", "--redis-url", url], tmp_path)
    try:
        assert command.process.wait(20) == 2
        command.wait_for("check user, password and database in redis.url")
        assert "planted-password" not in command.output
        assert "Traceback" not in command.output
    finally:
        command.kill()
        server.close()


def test_a_terminal_that_closes_ends_no_call_and_leaves_no_server(tmp_path: Path) -> None:
    simulator = SimulatorProcess(tmp_path, "--latency", "2-2")
    (tmp_path / "pixmill.toml").write_text(
        f"""
        [credentials.main]
        provider = "openai"
        base_url = "{simulator.base_url}"
        api_key_env = "SIMULATED"
        [routes.default]
        credential = "main"
        model = "simulated"
        """
    )
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", "up", "--metrics", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "SIMULATED": "any"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    try:
        shown = b""
        while b"Ctrl-C stops" not in shown:
            shown += os.read(screen, 4096)
        port = int(re.search(rb"redis://127.0.0.1:(\d+)", shown)[1])  # type: ignore[index]  # the banner has it
        client = redis.Redis(port=port)
        client.xadd("pixmill:jobs", {"data": json.dumps({"id": "a", "prompt": "a kettle"})})
        wait_until(lambda: simulator.ledger()["calls"] == 1, 20)
        os.close(screen)
        assert process.wait(20) == 0
        assert len(list((tmp_path / ".pixmill/images").rglob("a.png"))) == 1, "the call was finished and kept"
        assert server_ended(client)
    finally:
        process.kill()
        simulator.stop()


@pytest.mark.parametrize("command", ["up", "worker"])
def test_a_ca_file_that_is_not_there_ends_the_process_with_code_2_and_its_name(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "pixmill.toml").write_text(
        '[credentials.main]\nprovider = "openai"\napi_key_env = "KEY"\n'
        '[routes.default]\ncredential = "main"\nmodel = "m"\n'
    )
    words = [command] if command == "up" else [command, "--redis-url", "redis://127.0.0.1:9/0"]
    process = Command(words, tmp_path, KEY="sk-1", SSL_CERT_FILE="/no/such/ca.pem")
    assert process.process.wait(60) == 2
    assert wait_until(lambda: process.lines, 10)[-1].startswith(
        "SSL_CERT_FILE is /no/such/ca.pem (No such file or directory): "
    )
    assert servers_in(tmp_path / ".pixmill" / "redis") == []
