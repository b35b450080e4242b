"""All of the page by keyboard alone: from a CSV to its pictures, the filter, the dialog, orders, help."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, FileChooser, Page, expect

from tests.page.batch import TILE, tile, words
from tests.page.rig.painted import painting
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

MOST_TABS = 80
ITEMS = [{"id": f"i{k}", "prompt": f"cup {k}"} for k in range(8)] + [{"id": "refused", "prompt": "bad cup"}]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    pictures: Path = tmp_path_factory.mktemp("pictures")
    async with open_site(decide=painting(pictures), store_url=f"file://{pictures}") as site:
        yield site


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until an element of that name has the focus, and see that the focus shows."""
    for _ in range(MOST_TABS):
        await page.keyboard.press("Tab")
        if re.search(name, await page.evaluate(NAME)):
            assert await page.evaluate(SHOWS), f"the focus on {name} is not seen"
            return
    raise AssertionError(f"no Tab leads to {name}")


NAME = """(() => {
  const it = document.activeElement;
  return it.getAttribute("aria-label") || it.labels?.[0]?.textContent.trim() || it.textContent.trim();
})()"""
# A hidden field shows its focus on its label, a tile on its picture.
SHOWS = """(() => {
  const it = document.activeElement;
  const places = [it, it.closest("label, li"), ...it.children];
  return places.some((one) => one && getComputedStyle(one).outlineStyle !== "none");
})()"""


async def test_a_csv_is_chosen_tried_and_started(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("id,title\nk1,red kettle\n")
    page = await visit.open()
    chooser: asyncio.Future[FileChooser] = asyncio.get_running_loop().create_future()
    page.once(
        "filechooser", lambda found: chooser.set_result(found)
    )  # in time: a browser confirms no listener
    await tab_to(page, "^New$")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="New pictures")).to_be_visible()
    await tab_to(page, "Choose a CSV")
    await page.keyboard.press("Enter")
    async with asyncio.timeout(15):
        await (await chooser).set_files(file)
    await expect(page.get_by_role("button", name="Start 1 picture")).to_be_visible()
    await tab_to(page, "^Start 1 picture")
    await page.keyboard.press("Enter")
    await expect(tile(page, "k1").locator("img")).to_be_visible()


async def test_arrows_walk_the_grid_and_enter_opens_a_tile(visit: Visit, site: Site) -> None:
    page = await batch(visit, site, "walked")
    await tab_to(page, "i0")
    await page.keyboard.press("ArrowRight")
    await focused(page, "i1")
    await page.keyboard.press("End")
    await focused(page, "refused")
    await page.keyboard.press("Home")
    await page.keyboard.press("ArrowDown")
    below = await page.evaluate("document.activeElement.closest('[data-id]').dataset.id")
    assert below not in ("i0", "i1"), "an arrow down goes to the next row"
    await page.keyboard.press("ArrowUp")
    await focused(page, "i0")
    await page.keyboard.press("Enter")
    await expect(page.locator("dialog[open]")).to_contain_text("i0")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("dialog[open]")).to_contain_text("i1")
    await page.keyboard.press("Escape")
    await expect(page.locator("dialog[open]")).to_have_count(0)
    await focused(page, "i1")


async def test_x_chooses_r_retries_and_slash_filters(visit: Visit, site: Site) -> None:
    page = await batch(visit, site, "ordered")
    await page.keyboard.press("/")
    await page.keyboard.type("refused")
    await expect(page.locator(TILE)).to_have_count(1)
    await page.keyboard.press("Escape")
    await expect(page.locator(TILE)).to_have_count(len(ITEMS))
    await tab_to(page, "refused")
    await page.keyboard.press("Home")
    await page.keyboard.press("x")
    await expect(page.locator(".tile.is-chosen")).to_have_count(1)
    await page.keyboard.press("Escape")
    await expect(page.locator(".tile.is-chosen")).to_have_count(0)
    await page.keyboard.press("End")
    await page.keyboard.press("r")
    await expect(page.locator("[role=status]")).to_contain_text("queued again")
    await expect(words(page, "refused")).to_contain_text("not charged")


async def test_a_pause_takes_a_reason_and_ends_by_a_key(visit: Visit, site: Site) -> None:
    await site.submit("held-back", [{"id": "slow", "prompt": "slow cup"}])
    page = await visit.open(batch="held-back")
    await tab_to(page, "^Pause$")
    await page.keyboard.press("Enter")
    await tab_to(page, "^Reason$")
    await page.keyboard.type("the prompt is wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_contain_text("the prompt is wrong")
    await tab_to(page, "^Resume$")
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).not_to_contain_text("the prompt is wrong")


async def test_a_question_mark_shows_the_keys(visit: Visit) -> None:
    page = await visit.open()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()


async def batch(visit: Visit, site: Site, ident: str) -> Page:
    await site.submit(ident, ITEMS)
    await site.ended(ident)
    page = await visit.open(batch=ident)
    await expect(page.locator(TILE)).to_have_count(len(ITEMS))
    return page


async def focused(page: Page, item: str) -> None:
    await expect(tile(page, item).locator(".tile-open")).to_be_focused()
