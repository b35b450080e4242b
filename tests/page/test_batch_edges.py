"""The edges of the batch view: keys without a place, moves amid typing, pictures that fail, ends elsewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.daemon.harness import eventually
from tests.page.batch import TILE, tile, words
from tests.page.rig.painted import painting
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

CUPS = [{"id": f"c{n}", "prompt": "a cup"} for n in range(3)]
PANS = [{"id": f"p{n}", "prompt": "a pan"} for n in range(3)]
BAD = {"id": "refused", "prompt": "bad cup"}
SMALL = re.compile(r"/images/0\?thumb=1")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    pictures: Path = tmp_path_factory.mktemp("pictures")
    async with open_site(decide=painting(pictures), store_url=f"file://{pictures}") as site:
        yield site


async def ended(visit: Visit, site: Site, ident: str, items: list[dict[str, Any]], **place: str) -> Page:
    """The view of a batch that has ended."""
    await site.submit(ident, items)
    await site.ended(ident)
    page = await visit.open(batch=ident, **place)
    await expect(page.locator(TILE)).to_have_count(len(items))
    return page


async def test_r_retries_nothing_while_no_tile_has_the_focus(visit: Visit, site: Site) -> None:
    page = await ended(visit, site, "unfocused", [BAD])
    await page.keyboard.press("r")
    await tile(page, "refused").locator(".tile-open").focus()
    await page.keyboard.press("r")
    await expect(page.get_by_role("status")).to_contain_text("1 item is queued again.")
    assert len([url for url in visit.requested if url.endswith("/retry")]) == 1


async def test_a_key_that_is_held_down_retries_once(visit: Visit, site: Site) -> None:
    page = await ended(visit, site, "repeated", [BAD])
    await tile(page, "refused").locator(".tile-open").focus()
    for _ in range(3):  # without a release between them, the later ones are repeats
        await page.keyboard.down("r")
        await expect(page.get_by_role("status")).to_contain_text("1 item is queued again.")
        await expect(words(page, "refused")).to_contain_text("failed")
    assert len([url for url in visit.requested if url.endswith("/retry")]) == 1


async def test_shift_starts_at_its_own_tile_where_the_last_choice_is_hidden(visit: Visit, site: Site) -> None:
    page = await ended(visit, site, "hidden-anchor", [*CUPS, *PANS])
    await tile(page, "c0").locator(".tile-open").click(modifiers=["Control"])
    await page.get_by_label("Filter by id").fill("pan")
    await expect(page.locator(TILE)).to_have_count(len(PANS))
    await tile(page, "p2").locator(".tile-open").click(modifiers=["Shift"])
    await expect(page.locator(".batch-chosen")).to_contain_text("2 selected")


async def test_a_move_amid_typing_keeps_the_text(visit: Visit, site: Site) -> None:
    page = await ended(visit, site, "typing", [*CUPS, *PANS])
    await page.evaluate(
        """() => {
          const filter = document.getElementById("filter");
          filter.value = "pan";
          filter.dispatchEvent(new Event("input", { bubbles: true }));
          document.querySelector("[data-id=p1] .tile-open").click();
        }"""
    )
    await expect(page).to_have_url(f"{site.url}/?batch=typing&text=pan&item=p1")
    await expect(page.locator(TILE)).to_have_count(len(PANS))


async def test_the_next_item_is_found_where_the_open_one_has_left_the_list(visit: Visit, site: Site) -> None:
    await site.submit("stepped", [{"id": f"odd{n}", "prompt": f"odd cup {n}"} for n in range(3)])
    page = await visit.open(batch="stepped", state="held", item="odd1")
    await expect(page.locator(TILE)).to_have_count(3)
    await site.http.post("/v1/batches/stepped/items/odd1/cancel", json={})
    await expect(page.locator(TILE)).to_have_count(2)
    await page.keyboard.press("ArrowRight")
    await expect(page).to_have_url(re.compile("item=odd2$"))


async def test_a_picture_that_fails_for_now_is_tried_again(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 503")
    problem = {"code": "storage_unavailable", "detail": "The store is away."}
    await visit.page.route(SMALL, lambda route: route.fulfill(status=503, json=problem))
    page = await ended(visit, site, "away", CUPS[:1])
    await expect(words(page, "c0")).to_contain_text("cannot be loaded now")
    await page.unroute(SMALL)
    await expect(tile(page, "c0").locator("img")).to_be_visible()


async def test_a_picture_that_the_store_has_lost_is_named_so(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 404")
    problem = {"code": "picture_gone", "detail": "It is gone."}
    await visit.page.route(SMALL, lambda route: route.fulfill(status=404, json=problem))
    page = await ended(visit, site, "gone", CUPS[:1])
    await expect(words(page, "c0")).to_contain_text("not in the store")


async def test_a_batch_that_ended_anew_elsewhere_is_read_again(visit: Visit, site: Site) -> None:
    def readings() -> int:
        return len([url for url in visit.requested if "/items?" in url])

    await visit.page.clock.install()
    page = await ended(visit, site, "elsewhere", [BAD])
    feed = "import(new URL('page/core/link.js', location)).then(({ link }) => link().feed === 'ended')"
    await visit.until(feed)
    await page.clock.run_for(6000)  # the record has its end now
    before = readings()
    await page.clock.pause_at(await page.evaluate("Date.now() + 1"))
    await site.http.post("/v1/batches/elsewhere/retry", json={})
    await site.ended("elsewhere")
    await page.clock.run_for(6000)

    async def again() -> bool:
        return readings() > before

    await eventually(again, 10)


async def test_a_batch_that_is_deleted_is_no_longer_shown(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 4")
    page = await ended(visit, site, "deleted", CUPS)
    await site.http.delete("/v1/batches/deleted")
    await expect(page.locator("main")).to_contain_text(re.compile("No such batch|cannot be shown"))


async def test_the_focus_stays_in_the_view_after_its_button_has_left(visit: Visit, site: Site) -> None:
    await site.submit("focus", [{"id": "w", "prompt": "slow cup", "not_before": "2099-01-01T00:00:00Z"}])
    page = await visit.open(batch="focus")
    await page.get_by_role("button", name="Cancel").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#sure")).to_be_visible()
    await page.locator("#sure button[value=yes]").press("Enter")
    await expect(page.locator(f"{TILE}.tone-off")).to_have_count(1)
    await visit.until("document.activeElement.id === 'main'")


async def test_a_sentence_is_spoken_again(visit: Visit) -> None:
    page = await visit.open()
    speak = "import(new URL('page/core/notice.js', location)).then(({ speak }) => speak('Done.'))"
    spoken = "document.querySelector('[role=status]').textContent"
    await page.evaluate(speak)
    first = await visit.until(f"{spoken}.startsWith('Done.') && {spoken}")
    await page.evaluate(speak)  # after the five seconds that are between two sentences
    await visit.until(f"{spoken}.startsWith('Done.') && {spoken} !== {first!r}")
