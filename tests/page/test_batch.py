"""The view of a batch: what its tiles say, which of them it shows, what a person chooses and orders."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from tests.page.batch import TILE, chip, tile, words
from tests.page.rig.painted import painting
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

Item = dict[str, Any]
KETTLES: list[Item] = [
    {"id": f"k{n}", "prompt": f"a kettle {n}", "metadata": {"shelf": f"s{n}"}} for n in range(6)
]
WAITING: list[Item] = [
    {"id": f"w{n}", "prompt": "slow cup", "not_before": "2099-01-01T00:00:00Z"} for n in range(3)
]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    pictures: Path = tmp_path_factory.mktemp("pictures")
    async with open_site(decide=painting(pictures), store_url=f"file://{pictures}") as site:
        yield site


def dialog(page: Page) -> Locator:
    return page.locator("dialog[open]")


async def opened(visit: Visit, site: Site, ident: str, items: list[Item], **place: str) -> Page:
    """A batch on the page, once everything in it has ended that can."""
    await site.submit(ident, items)
    await visit.open(batch=ident, **place)
    return visit.page


async def test_a_waiting_tile_says_how_many_come_before_it(visit: Visit, site: Site) -> None:
    await site.submit("line", [{"id": f"q{n}", "prompt": "slow cup"} for n in range(4)], max_in_flight=1)
    page = await visit.open(batch="line")
    await expect(words(page, "q0")).to_contain_text("running")
    await expect(words(page, "q3")).to_contain_text("2 before it")
    await site.pause("v1/batches/line/pause", "first the invoice")
    await expect(words(page, "q3")).to_contain_text("paused")
    await expect(page.locator(".batch-head")).to_contain_text("first the invoice")
    await expect(page.locator(".batch-line")).to_have_text(re.compile("^Paused"))
    await site.resume("v1/batches/line/resume")
    await expect(words(page, "q3")).to_contain_text("2 before it")


async def test_a_held_tile_leaves_the_decision_to_a_person(visit: Visit, site: Site) -> None:
    page = await opened(visit, site, "held", [{"id": "odd", "prompt": "odd cup"}])
    await expect(words(page, "odd")).to_contain_text("you decide")
    await expect(words(page, "odd")).to_contain_text("perhaps charged")
    await tile(page, "odd").get_by_role("button", name="Send again").click()
    await expect(dialog(page)).to_contain_text("paid twice")
    await dialog(page).get_by_role("button", name="No").click()
    await tile(page, "odd").get_by_role("button", name="Cancel it").click()
    await dialog(page).get_by_role("button", name="Yes, cancel").click()
    await expect(words(page, "odd")).to_contain_text("cancelled")


async def test_a_retry_of_what_may_be_paid_already_comes_after_a_question(visit: Visit, site: Site) -> None:
    items: list[Item] = [{"id": "lost", "prompt": "lost cup"}, {"id": "refused", "prompt": "bad cup"}]
    page = await opened(visit, site, "lost", items)
    failures = page.locator(".failure")
    ways = [
        page.get_by_role("button", name="Retry failed"),
        failures.filter(has_text="provider too slow").get_by_role("button", name="Retry it"),
    ]
    for way in ways:
        await way.click()
        await expect(dialog(page)).to_contain_text("Send 1 item again?")
        await expect(dialog(page)).to_contain_text("paid twice")
        await dialog(page).get_by_role("button", name="No").click()
    await failures.filter(has_text="not charged").get_by_role("button", name="Retry it").click()
    await expect(page.get_by_role("status")).to_contain_text("1 item is queued again.")


async def test_a_chip_shows_its_state_alone_and_a_link_shows_it_again(visit: Visit, site: Site) -> None:
    items: list[Item] = [*KETTLES[:3], {"id": "refused", "prompt": "bad cup"}]
    page = await opened(visit, site, "chips", items)
    await site.ended("chips")
    await chip(page, "Failed").click()
    await expect(page.locator(TILE)).to_have_count(1)
    await page.reload()
    await expect(page.locator(TILE)).to_have_count(1)
    await expect(tile(page, "refused")).to_be_visible()
    await chip(page, "All").click()
    await expect(page.locator(TILE)).to_have_count(4)


async def test_a_text_finds_an_id_a_value_of_the_metadata_and_a_prompt(visit: Visit, site: Site) -> None:
    page = await opened(visit, site, "texts", KETTLES)
    for text, found in (("k4", "k4"), ("S2", "k2"), ("kettle 5", "k5")):
        await page.get_by_label("Filter by id").fill(text)
        await expect(tile(page, found)).to_be_visible()
        await expect(page.locator(TILE)).to_have_count(1)
    await page.get_by_label("Filter by id").fill("nothing has this")
    await page.get_by_role("button", name="Show all").click()
    await expect(page.locator(TILE)).to_have_count(len(KETTLES))


async def test_shift_chooses_all_between_two_tiles(visit: Visit, site: Site) -> None:
    page = await opened(visit, site, "chosen", KETTLES)
    await expect(tile(page, "k5").locator("img")).to_be_visible()
    await tile(page, "k1").locator(".tile-open").click(modifiers=["Control"])
    await tile(page, "k4").locator(".tile-open").click(modifiers=["Shift"])
    await expect(page.locator(".batch-chosen")).to_contain_text("4 selected")
    await page.keyboard.press("Shift+ArrowRight")
    await expect(page.locator(".batch-chosen")).to_contain_text("5 selected")


async def test_no_order_that_a_selection_does_not_allow_can_be_given(visit: Visit, site: Site) -> None:
    page = await opened(visit, site, "impossible", [*KETTLES[:1], {"id": "refused", "prompt": "bad cup"}])
    await site.ended("impossible")
    chosen = page.locator(".batch-chosen")
    await tile(page, "k0").locator(".tile-open").click(modifiers=["Control"])
    await expect(chosen.get_by_role("button", name="Retry")).to_be_disabled()
    await tile(page, "refused").locator(".tile-open").click(modifiers=["Control"])
    await expect(chosen.get_by_role("button", name="Retry")).to_be_enabled()
    await expect(chosen.get_by_role("button", name="Cancel")).to_be_disabled()


async def test_a_cancel_comes_after_a_question_and_a_retry_at_once(visit: Visit, site: Site) -> None:
    page = await opened(visit, site, "ordered-twice", WAITING)
    await page.get_by_role("button", name="Cancel").click()
    await dialog(page).get_by_role("button", name="Yes, cancel").click()
    await expect(page.locator(f"{TILE}.tone-off")).to_have_count(3)
    await tile(page, "w1").locator(".tile-open").focus()
    await page.keyboard.press("r")
    await expect(tile(page, "w1")).to_have_class(re.compile("tone-act"))


async def test_the_dialog_has_all_of_an_item_and_goes_on_by_arrows(visit: Visit, site: Site) -> None:
    items: list[Item] = [
        {"id": "a", "prompt": "a cup " * 2000, "seed": 7, "metadata": {"shelf": "s1"}},
        *KETTLES[:1],
    ]
    page = await opened(visit, site, "whole", items, item="a")
    await expect(dialog(page)).to_contain_text("Seed")
    for text in ("a cup " * 2000, "s1", "1 of 5"):
        await expect(dialog(page)).to_contain_text(text.strip())
    await expect(dialog(page).locator("img")).to_be_visible()
    await expect(dialog(page).get_by_role("button", name="Close")).to_be_focused()
    await expect(dialog(page).get_by_role("button", name="Previous")).to_be_disabled()
    await expect(dialog(page).get_by_role("button", name="Next")).to_be_enabled()
    await page.keyboard.press("ArrowRight")
    await expect(page).to_have_url(f"{site.url}/?batch=whole&item=k0")
    await expect(dialog(page).get_by_role("button", name="Next")).to_be_disabled()
    await page.keyboard.press("Escape")
    await expect(page).to_have_url(f"{site.url}/?batch=whole")


async def test_a_batch_of_two_windows_shows_the_second_on_request(visit: Visit, site: Site) -> None:
    lines = [{"id": f"i{n}", "prompt": "bad cup"} for n in range(600)]
    await site.submit("large", [{**line, "n": 2} for line in lines])
    page = await visit.open(batch="large")
    await expect(page.locator(TILE)).to_have_count(1000, timeout=30_000)
    await page.get_by_role("button", name="Show 200 more").click(timeout=60_000)
    await expect(page.locator(TILE)).to_have_count(1200)
