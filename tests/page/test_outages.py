"""Redis away, the gateway restarted, a laptop that slept: the page says so, and is right again by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.daemon.harness import eventually
from tests.page.batch import TILE, tones, tones_of
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

ITEMS = 24
ASLEEP_MS = 60_000
REFUSED = ("Failed to load resource", "net::ERR_", "Failed to fetch")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser) -> AsyncIterator[Site]:
    async with open_site(quota={"images": "8/s", "in_flight": 4}) as site:
        yield site


async def watched(visit: Visit, site: Site, ident: str) -> Page:
    """A batch on the screen that has begun and has not ended."""
    visit.expected += REFUSED
    await site.submit(ident, ITEMS)
    page = await visit.open(batch=ident)
    await expect(page.locator(TILE)).to_have_count(ITEMS)
    await visit.until("document.querySelectorAll('.tile.tone-ok').length > 1")
    return page


async def agrees(page: Page, site: Site, ident: str) -> None:
    """Wait until the page shows each item as the API does, after the end of the batch."""
    await site.ended(ident)
    items = (await site.http.get(f"/v1/batches/{ident}/items", params={"limit": "1000"})).json()["items"]
    assert {item["state"] for item in items} == {"succeeded"}

    async def same() -> bool:
        return await tones(page) == tones_of(items)

    await eventually(same, 30)
    await expect(page.locator(".banner")).to_have_count(0)


async def test_a_page_whose_redis_was_away_misses_nothing(visit: Visit, site: Site) -> None:
    page = await watched(visit, site, "redis-away")
    await asyncio.to_thread(site.server.kill)
    await expect(page.locator(".banner")).to_contain_text("Redis")
    assert await visit.violations() == []
    await asyncio.to_thread(site.server.start)
    await agrees(page, site, "redis-away")


async def test_a_page_whose_gateway_was_restarted_misses_nothing(visit: Visit, site: Site) -> None:
    page = await watched(visit, site, "restart")
    await site.stop_gateway()
    await expect(page.locator(".link")).to_contain_text("Offline")
    await stands_still(visit)
    await site.start_gateway()
    await agrees(page, site, "restart")
    await expect(page.locator(".link")).to_contain_text("Live")


async def stands_still(visit: Visit) -> None:
    """No order can be given, and no time counts on, while the page does not know what happens."""
    orders = visit.page.locator(".batch-head button")
    assert await orders.count() == await visit.page.locator(".batch-head button:disabled").count() > 0
    await visit.until(
        """(async () => {
          const { mark } = await import(new URL("page/core/time.js", document.baseURI));
          const before = mark();
          await new Promise((resolve) => setTimeout(resolve, 50));
          return mark() === before;
        })()"""
    )


async def test_a_laptop_that_slept_for_a_minute_shows_what_happened_meanwhile(
    visit: Visit, site: Site
) -> None:
    await visit.page.clock.install()
    page = await watched(visit, site, "asleep")
    await visit.context.set_offline(True)
    await page.clock.pause_at(await page.evaluate("Date.now() + 1"))
    await site.ended("asleep")
    await page.clock.fast_forward(ASLEEP_MS)
    await visit.context.set_offline(False)
    await page.clock.resume()
    await agrees(page, site, "asleep")
