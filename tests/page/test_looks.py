"""Every view can be read by everybody: axe finds nothing serious, in light and dark, in English and Chinese."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from redis.asyncio import Redis

from tests.page.batch import TILE, tile
from tests.page.conftest import Enter
from tests.page.rig.painted import painting
from tests.page.rig.site import Site, open_site

MIXED = [
    {"id": "done", "prompt": "a cup"},
    {"id": "refused", "prompt": "bad cup"},
    {"id": "held", "prompt": "odd cup"},
    {"id": "running", "prompt": "slow cup"},
    {"id": "gone", "prompt": "a late cup", "not_before": "2099-01-01T00:00:00Z"},
]
WRONG = "id,prompt,size\nk1,a cup,3\nk2,a pan,\n"
WIDTHS = {"light": 1280, "dark": 360}


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    pictures = tmp_path_factory.mktemp("pictures")
    async with open_site(decide=painting(pictures), store_url=f"file://{pictures}") as site:
        await site.submit("mixed", MIXED)
        await site.submit("whole", 3)
        await site.ended("whole")
        await site.http.post("/v1/batches/whole/pause", json={"reason": "the prompt is wrong"})
        await site.pause("v1/routes/default/pause")
        async with Redis.from_url(site.server.url) as redis:
            await redis.xadd("pixmill:jobs", {"data": "{"})
        yield site


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious_in_any_view(
    enter: Enter, scheme: str, language: str, tmp_path: Path
) -> None:
    viewport = {"width": WIDTHS[scheme], "height": 800}
    visit = await enter(color_scheme=scheme, reduced_motion="reduce", viewport=viewport)
    found: dict[str, list[str]] = {}

    async def look(name: str) -> None:
        if violations := await visit.violations():
            found[name] = violations

    page = await visit.open(lang=language)
    await expect(page.locator("main")).to_contain_text("mixed")
    await expect(page.locator(".dead")).to_be_visible()
    await look("overview")
    await page.locator(".quota button").first.click()
    await expect(page.locator("#pause")).to_be_visible()
    await look("pause of an account")
    await page.keyboard.press("Escape")
    await page.keyboard.press("?")
    await expect(page.locator("#help")).to_be_visible()
    await look("help")
    await page.keyboard.press("Escape")

    await visit.open(batch="mixed", lang=language)
    await expect(page.locator(TILE)).to_have_count(len(MIXED))
    await look("batch")
    for item in ("done", "refused", "held"):
        await tile(page, item).locator(".tile-open").click()
        await expect(page.locator("#item section").first).to_be_visible()
        await look(f"dialog of {item}")
        await page.keyboard.press("Escape")
    await tile(page, "done").locator(".tile-check").click()
    await expect(page.locator(".batch-chosen")).to_be_visible()
    await look("selection")
    await tile(page, "held").locator("[data-do=cancel]").click()
    await expect(page.locator("#sure")).to_be_visible()
    await look("question")
    await visit.open(batch="mixed", lang=language, text="no such text")
    await look("batch without a match")

    await visit.open(view="new", lang=language)
    await look("new")
    await plan_of(page, tmp_path)
    await look("new with faults")

    visit.expected.append("status of 404")
    await visit.open(batch="nowhere", lang=language)
    await look("no such batch")
    assert found == {}


async def plan_of(page: Page, folder: Path) -> None:
    file = folder / "wrong.csv"
    file.write_text(WRONG)
    await page.locator("input[type=file]").set_input_files(file)
    await expect(page.locator(".new-lines tr:has(td)")).to_have_count(1)
    await expect(page.locator(".new-form .chip")).to_have_count(3)


@pytest.mark.parametrize("width", [360, 640, 1440])  # 640: twice the size in a window of 1280
async def test_no_view_is_wider_than_its_window(enter: Enter, width: int) -> None:
    visit = await enter(viewport={"width": width, "height": 800})
    for place in ({}, {"batch": "mixed"}, {"batch": "mixed", "item": "refused"}, {"view": "new"}):
        await visit.open(**place)
        await visit.until("document.documentElement.scrollWidth <= innerWidth")
