"""The command and the queries of docs/sql.md, as they stand there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from daemon.mirror.rows import BatchRow, ItemRow
from daemon.queue.outcomes import Succeeded
from daemon.settings import SecretUrl
from tests.daemon.harness import eventually
from tests.daemon.live import made
from tests.daemon.mirror.conftest import postgres, postgres_server  # noqa: F401 - fixtures
from tests.daemon.mirror.rig import SOURCES, Followed
from tests.daemon.mirror.server import PostgresServer
from tests.docs.pages import ROOT, blocks_of
from tests.e2e.processes import Command
from tests.servers import RedisServer

BLOCKS = blocks_of("docs/sql.md")
[COMMAND] = [text.strip() for kind, text in BLOCKS if kind == "sh"]
PROGRESS, FAILURES, COSTS = [text for kind, text in BLOCKS if kind == "sql"]


async def test_the_command_makes_the_tables_that_the_queries_read(
    redis: Redis,
    redis_server: RedisServer,
    postgres: PostgresServer,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    variable, words = COMMAND.split(" ", 1)
    name, _, url = variable.partition("=")
    assert url.strip('"') == "postgresql://pixmill:secret@localhost:5432/pixmill"
    environ = {name: postgres.url, "PIXMILL_REDIS__URL": redis_server.url}
    followed = Followed(redis, SecretUrl(postgres.url))
    mirror = Command(words.split()[1:], tmp_path, **environ)
    try:
        await asyncio.to_thread(mirror.wait_for, "mirror started")
        await _five_pictures_of_three_skus(followed)
        await eventually(followed.agrees, 60.0)
    finally:
        assert await asyncio.to_thread(mirror.stop) == 0
        await followed.reader.aclose()
    total, succeeded, failed, progress, urls = postgres.sql(PROGRESS).split("|")
    assert (total, succeeded, failed, progress) == ("5", "4", "1", "1.0000")
    assert urls.count(".png") == 4
    assert postgres.sql(FAILURES) == "moderation_input|1|The provider refuses this prompt."
    _, tenant, currency, pictures, cost, waited = postgres.sql(COSTS).split("|")
    assert (tenant, currency, pictures, cost) == ("default", "USD", "4", "0.16")
    assert float(waited) >= 0


async def _five_pictures_of_three_skus(followed: Followed) -> None:
    pictures = ("sku1.a", "sku1.b", "sku2.a", "sku2.b", "sku3.a")
    rows: list[dict[str, Any]] = [{"id": name, "prompt": "good"} for name in pictures]
    rows[-1]["prompt"] = "bad"
    await followed.installation.submit({"id": "autumn", "items": rows}, type="pixmill.batch.v1")
    for item in await followed.installation.claim(4):
        cost = {"amount": "0.04", "currency": "USD"}
        await followed.installation.queue.settle(item, Succeeded({**made(item).result, "cost": cost}))
    await followed.work()


def test_the_page_names_every_column() -> None:
    page = (ROOT / "docs" / "sql.md").read_text()
    counts = {"queued", "throttled", "retry_wait", "running", "held"}  # "the counts by state"
    columns = {*ItemRow._fields, *BatchRow._fields} - {*SOURCES, *counts}
    assert columns <= set(re.findall(r"`(\w+)`", page))
