"""The page stays small: its code, its nodes, its renders, also under a thousand events."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, CDPSession

from daemon.gateway.page.files import VENDOR, WORDS, assets
from tests.page.batch import TILE
from tests.page.rig.painted import painting
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

MOST_BYTES = 40 * 1024
ITEMS = 100
ROUNDS = 4  # each has at least three events an item
# The time that a callback gets is the same for all callbacks of one frame.
COUNT_RENDERS = """
  window.frames_ = new Map();
  const request = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (fn) => request((time) => {
    frames_.set(time, (frames_.get(time) ?? 0) + 1);
    fn(time);
  });
"""

# The feed parses the data of each event; replies are parsed otherwise.
COUNT_FAILURES = """
  window.failures_ = new Set();
  const parse = JSON.parse;
  JSON.parse = (text) => {
    const data = parse(text);
    if (data?.item && data.error) failures_.add(data.item);
    return data;
  };
"""


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    pictures: Path = tmp_path_factory.mktemp("pictures")
    async with open_site(decide=painting(pictures), store_url=f"file://{pictures}") as site:
        yield site


def test_the_code_of_the_page_has_at_most_40_kib() -> None:
    """Its own code. The library adds 4 KiB, and so do the texts of the one language that a browser loads."""
    names = (name for name in sorted(assets()) if not name.startswith((WORDS, VENDOR)))
    code = b"\n".join(assets()[name].plain for name in names if name.endswith((".js", ".css", ".html")))
    assert len(gzip.compress(code, 9)) <= MOST_BYTES


async def test_events_leave_no_nodes_behind(visit: Visit, site: Site) -> None:
    """A slow item keeps the batch and its stream open."""
    await visit.page.add_init_script(COUNT_FAILURES)
    items = [{"id": f"i{k}", "prompt": f"bad cup {k}"} for k in range(ITEMS)]
    await site.submit("again", [*items, {"id": "open", "prompt": "slow cup"}])
    page = await visit.open(batch="again")
    await visit.until(FAILED)
    session = await visit.context.new_cdp_session(page)
    await retried(visit, site)
    before, shown = await counters(session), await page.evaluate(NODES)
    for _ in range(ROUNDS):
        await retried(visit, site)
    after = await counters(session)
    assert await page.evaluate(NODES) == shown
    assert after["nodes"] <= before["nodes"] * 1.02, "nodes that are not shown are kept"
    assert after["jsEventListeners"] <= before["jsEventListeners"] * 1.02


FAILED = f"document.querySelectorAll('{TILE}.tone-warn').length === {ITEMS}"
NODES = "document.getElementsByTagName('*').length"


async def retried(visit: Visit, site: Site) -> None:
    """Let all items fail once more, and wait until the page has read each failure and shows it."""
    await visit.page.evaluate("failures_.clear()")
    reply = await site.http.post("/v1/batches/again/retry", json={})
    assert reply.json()["affected"] == ITEMS
    await visit.until(f"failures_.size === {ITEMS} && {FAILED}")


async def counters(session: CDPSession) -> dict[str, Any]:
    """Nodes and listeners in memory, after the garbage has gone."""
    await session.send("HeapProfiler.collectGarbage")
    found: dict[str, Any] = await session.send("Memory.getDOMCounters")
    return found


async def test_any_number_of_events_is_one_render_a_frame(visit: Visit, site: Site) -> None:
    await visit.page.add_init_script(COUNT_RENDERS)
    await site.submit("renders", [{"id": f"i{k}", "prompt": f"cup {k}"} for k in range(ITEMS)])
    await visit.open(batch="renders")
    await visit.until(f"document.querySelectorAll('{TILE}.tone-ok').length === {ITEMS}")
    frames = await visit.page.evaluate("[...frames_.values()]")
    assert max(frames) == 1
    assert len(frames) < 2 * ITEMS, "each item has at least three events"
