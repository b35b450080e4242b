"""The design page names files that exist, and the files that a job really enters."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.service import worker
from daemon.settings import Settings
from providers.simulator import Simulator
from tests.daemon.harness import eventually
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "design.md").read_text("utf-8")
PRODUCT = [
    str(path.relative_to(ROOT))
    for package in ("packages", "daemon", "limiter", "providers")
    for path in (ROOT / package).rglob("*.*")
    if path.suffix in (".py", ".lua")
]
MOST_FILES = 40
# These run beside a job, each in a loop of its own, and would be entered without one.
BACKGROUND = re.compile(
    r"packages/pixmill/pixmill/broker/connect\.py"
    r"|daemon/(maintenance/|callbacks/|replica\.py|broker/parts\.py|telemetry/(health|gauges)\.py"
    r"|queue/(jobs_stream|outbox|pauses)\.py|worker/(cache|spares)\.py|accounts/(quota_|call_times))"
    r"|limiter/(quota/|plan\.py|scripts/states\.py|lag\.py)|providers/(http/(asgi|connections|parts)|simulator/)"
)


def named(text: str) -> set[str]:
    """The product files that a text names, each by the end of its path."""
    found = set()
    for end in re.findall(r"`([\w/]+\.(?:py|lua))`", text):
        if "NAME" in end:
            continue  # stands for each provider
        paths = [path for path in PRODUCT if f"/{path}".endswith(f"/{end}")]
        assert paths or (ROOT / end).exists(), f"{end} does not exist"
        if "/" in end and end.endswith(".py"):
            found.update(paths)
    return found


def test_every_file_that_the_page_names_exists() -> None:
    assert len(named(PAGE)) > MOST_FILES


@contextmanager
def entered() -> Iterator[set[str]]:
    """The product files whose functions are called meanwhile, in any thread that began after this."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{ROOT}/") and frame.f_code.co_name != "<module>":
            files.add(path.removeprefix(f"{ROOT}/"))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def test_a_job_enters_the_files_of_follow_one_job(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (steps,) = re.findall(r"^## Follow one job\n(.*?)^A failure leaves", PAGE, re.MULTILINE | re.DOTALL)
    listed = named(steps)
    monkeypatch.setenv("DESIGN_KEY", "simulated")
    simulator = Simulator()
    await simulator.start()
    settings = Settings.model_validate(
        {
            "metrics": {"listen": "127.0.0.1:0"},
            "redis": {"url": redis_server.url},
            "storage": {"url": tmp_path.as_uri()},
            "credentials": {
                "a": {"provider": "openai", "base_url": simulator.base_url, "api_key_env": "DESIGN_KEY"}
            },
            "quotas": {"a": {"images": "20/s", "in_flight": 8}},
            "routes": {"default": {"credential": "a", "model": "gpt-image-1", "quotas": ["a"]}},
        }
    )

    async def done(job: str) -> bool:
        return bool(await redis.hget(f"pixmill:item:default//{job}", "state") == b"succeeded")

    try:
        async with worker(settings, redis_server.url):
            with entered() as files:
                await redis.xadd("pixmill:jobs", {"data": '{"id":"one","prompt":"a cup"}'})
                await eventually(lambda: done("one"))
                await asyncio.sleep(0)
    finally:
        await simulator.stop()
    ours = {path for path in files if path.startswith(("packages/", "daemon/", "limiter/", "providers/"))}
    foreground = {path for path in ours if not BACKGROUND.search(path)}
    assert foreground == listed
    assert len(listed) <= MOST_FILES
