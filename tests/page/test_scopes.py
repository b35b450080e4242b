"""A key that may only read sees nothing that it may not press, and no key sees the work of another tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.page.batch import TILE, tile
from tests.page.rig.painted import painting
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

ITEMS = [
    {"id": "good", "prompt": "a cup"},
    {"id": "refused", "prompt": "bad cup"},
    {"id": "held", "prompt": "odd cup"},
]
ORDERS = "retry|cancel|pause|resume|new|send again|give up|start"


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    pictures: Path = tmp_path_factory.mktemp("pictures")
    async with open_site(decide=painting(pictures), store_url=f"file://{pictures}", with_keys=True) as site:
        await site.submit("shown", ITEMS)
        yield site


def orders(visit: Visit) -> str:
    """The names of all buttons and links by which the page gives an order."""
    return (
        "[...document.querySelectorAll('button, a.button')].filter(each => each.checkVisibility())"
        ".map(each => each.getAttribute('aria-label') ?? each.textContent.trim())"
        f".filter(name => /^({ORDERS})\\b/i.test(name))"
    )


async def test_a_key_that_may_only_read_sees_no_order(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["reader"])
    for place in ({}, {"batch": "shown"}, {"batch": "shown", "item": "refused"}, {"view": "new"}):
        page = await visit.open(**place)
        if "batch" in place:
            await expect(page.locator(TILE)).to_have_count(len(ITEMS))
        assert await page.evaluate(orders(visit)) == [], place


async def test_a_key_that_may_submit_sees_these_orders(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["maker"])
    page = await visit.open(batch="shown")
    await expect(tile(page, "held").locator("[data-do=retry]")).to_be_visible()
    assert {"New", "Retry failed"} <= set(await page.evaluate(orders(visit)))


async def test_the_batch_of_another_tenant_is_not_there(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 404")
    await visit.sign_in(site.keys["stranger"])
    page = await visit.open(batch="shown")
    await expect(page.locator("main")).to_contain_text("No such batch")
    assert await page.locator(TILE).count() == 0


async def test_a_refused_list_says_why_instead_of_loading(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 403")
    await visit.sign_in(site.keys["maker"])
    page = await visit.open(tenant="other")
    await expect(page.locator(".batches")).to_contain_text("This key belongs to another tenant")
    await expect(page.locator(".batches")).not_to_contain_text("Loading")
    await expect(page.locator(".link")).to_have_count(0)


async def test_a_person_signs_in_with_a_key_that_no_script_keeps(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 401")
    page = visit.page
    await page.goto(f"{site.url}/?batch=shown")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert await visit.violations() == []
    await page.get_by_role("textbox", name="Key").fill(site.keys["maker"])
    await page.keyboard.press("Enter")
    await expect(page.locator(TILE)).to_have_count(len(ITEMS))
    kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert "pxm_" not in kept
    assert site.keys["maker"] not in await page.content()
