"""Views whose code does not load: the page stays, shows that, and goes on by itself."""

from __future__ import annotations

from playwright.async_api import Page, Route, expect

from tests.daemon.harness import eventually
from tests.page.rig.site import Site
from tests.page.rig.visit import Visit

OVERVIEW = "**/page/overview/view.js*"
BELOW = "**/page/overview/quotas.js"
REFUSED = ("Failed to load resource", "net::ERR_", "Failed to fetch")
RETRIES = 2


async def refuse(route: Route) -> None:
    await route.abort()


async def at_new(visit: Visit, pattern: str = OVERVIEW) -> Page:
    """The view "new", marked, after the code of the overview did not load in the background."""
    visit.expected += REFUSED
    await visit.page.route(pattern, refuse)
    page = await visit.open(view="new")
    await page.evaluate("window.mark = 'here'")
    await requested(visit, pattern.rpartition("/")[2].rstrip("*"))
    return page


async def requested(visit: Visit, part: str, times: int = 1) -> None:
    async def look() -> bool:
        return len([url for url in visit.requested if "/overview/" in url and part in url]) >= times

    await eventually(look, 30)


async def stayed(page: Page) -> bool:
    """Whether this is still the document that was marked."""
    return bool(await page.evaluate("window.mark === 'here'"))


async def test_while_the_gateway_is_away_the_page_stays_and_it_goes_on_afterwards(
    visit: Visit, site: Site
) -> None:
    page = await at_new(visit)
    await site.stop_gateway()
    await page.unroute(OVERVIEW)
    await page.get_by_role("link", name="Pixmill").click()
    await expect(page.locator("main")).to_have_text("Loading…")
    await expect(page.locator(".banner")).to_contain_text("The gateway cannot be reached.")
    await requested(visit, "try=", RETRIES)
    await site.start_gateway()
    await expect(page.get_by_role("heading", name="Batches")).to_be_visible()
    await expect(page.locator(".banner")).to_have_count(0)
    assert await stayed(page)


async def test_one_who_goes_back_from_a_view_that_does_not_load_finds_the_draft(visit: Visit) -> None:
    await visit.page.clock.install()
    page = await at_new(visit)
    await page.get_by_label("one prompt").check()
    await page.get_by_label("Prompt", exact=True).fill("a green cup")
    await page.get_by_role("link", name="Pixmill").click()
    await expect(page.locator("main")).to_have_text("Loading…")
    await expect(page).to_have_title("Pixmill")
    await page.go_back()
    await expect(page.get_by_label("Prompt", exact=True)).to_have_value("a green cup")
    await page.clock.fast_forward(10_000)
    await page.get_by_role("button", name="Check first").click()
    await expect(page.get_by_role("button", name="Start 1 picture")).to_be_visible()
    assert await stayed(page)


async def test_a_view_opens_although_it_did_not_load_in_the_background(visit: Visit) -> None:
    page = await at_new(visit)
    await page.unroute(OVERVIEW)
    await page.get_by_role("link", name="Pixmill").click()
    await expect(page.get_by_role("heading", name="Batches")).to_be_visible()
    assert await stayed(page)


async def test_a_view_that_did_not_load_in_the_background_is_loaded_later(visit: Visit) -> None:
    await visit.page.clock.install()
    page = await at_new(visit)
    await page.unroute(OVERVIEW)
    await page.clock.fast_forward(10_000)
    await requested(visit, "view.js?try=")


async def test_where_a_module_below_a_view_failed_the_page_is_loaded_anew(visit: Visit) -> None:
    page = await at_new(visit, BELOW)
    await page.unroute(BELOW)
    await page.get_by_role("link", name="Pixmill").click()
    await expect(page.get_by_role("heading", name="Batches")).to_be_visible()


async def test_a_first_view_that_does_not_load_at_once_is_shown_later(visit: Visit) -> None:
    visit.expected += REFUSED
    await visit.page.route("**/page/overview/view.js", refuse)
    page = await visit.open()
    await expect(page.get_by_role("heading", name="Batches")).to_be_visible()
