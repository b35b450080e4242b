"""A provider that sends little and means much: answers that unpack to a hundred times their size."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.processes import Command, wait_until
from tests.servers import RedisServer

MOST_MB = 400  # that a worker may take
CALLS = 32
SIDE = 4880  # pixels of a picture that, without compression and in base64, is as large as an answer may be


CONTENTS = {"no picture": b"", "the beginning of a picture": b"\x89PNG\r\n\x1a\n"}


class Server(ThreadingHTTPServer):
    request_queue_size = CALLS


@contextmanager
def provider(content: bytes) -> Iterator[str]:
    """Answers each call with this picture, packed, once all calls have come. Gives its address."""
    document = json.dumps({"data": [{"b64_json": base64.b64encode(content).decode()}]}).encode()
    packed, together = gzip.compress(document), threading.Barrier(CALLS)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            together.wait(60)
            self.send_response(200)
            self.send_header("content-encoding", "gzip")
            self.send_header("content-length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)

        def log_message(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.timeout(300)
def test_answers_that_swell_take_the_memory_of_one(
    content: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        base_url = stack.enter_context(provider(CONTENTS[content] + bytes(3 * SIDE * SIDE)))
        (tmp_path / "pixmill.toml").write_text(f"""
[redis]
url = "{redis_server.url}"
[storage]
url = "file://{tmp_path}/images"
[metrics]
listen = "127.0.0.1:0"
[credentials.main]
provider = "openai"
base_url = "{base_url}"
api_key_env = "KEY"
[routes.default]
credential = "main"
model = "sim-1"
""")
        client: Any = redis.Redis.from_url(redis_server.url)
        client.flushall()
        worker = stack.enter_context(running(Command(["worker"], tmp_path, KEY="sk-1")))
        for number in range(CALLS):
            job = {"id": f"j-{number}", "prompt": "a mug", "max_attempts": 1, "on_unknown_outcome": "fail"}
            client.xadd("pixmill:jobs", {"data": json.dumps(job)})

        def ended() -> bool:
            kinds = [fields[b"type"] for _, fields in client.xrange("pixmill:events")]
            return sum(kind in (b"job.succeeded", b"job.failed") for kind in kinds) == CALLS

        wait_until(ended, 240, lambda: worker.output)
        assert peak_mb(worker.process.pid) < MOST_MB


@contextmanager
def running(command: Command) -> Iterator[Command]:
    try:
        yield command
    finally:
        command.kill()


def peak_mb(pid: int) -> float:
    """The most memory that a process ever had, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e6
