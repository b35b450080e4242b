"""The first view: batches as they go, what each account allows, pauses with a reason, dead letters."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect
from redis.asyncio import Redis

from tests.page.rig.painted import painting
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

MIXED = [{"id": "good", "prompt": "a cup"}, {"id": "refused", "prompt": "bad cup"}]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    pictures: Path = tmp_path_factory.mktemp("pictures")
    store = f"file://{pictures}"
    quota = {"images": "20/min", "in_flight": 4}
    async with open_site(decide=painting(pictures), store_url=store, quota=quota, with_keys=True) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="session")
async def page(visit: Visit, site: Site) -> Page:
    """The overview for an administrator."""
    await visit.sign_in(site.keys["boss"])
    return await visit.open()


def row(page: Page, batch: str) -> Locator:
    return page.locator(".batch", has_text=batch)


async def test_an_empty_page_teaches_how_to_begin(page: Page, site: Site) -> None:
    await expect(page.locator("main")).to_contain_text(f"curl {site.url}/v1/batches")
    await expect(page.locator("pre")).to_contain_text("Authorization: Bearer $KEY")
    await page.get_by_role("link", name="Start from a CSV or a prompt").click()
    await expect(page).to_have_url(re.compile(r"\?view=new$"))


async def test_an_empty_page_teaches_no_reader_to_send(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["reader"])
    page = await visit.open()
    await expect(page.locator("main")).to_contain_text("No batch yet.")


async def test_a_new_batch_appears_and_ends_without_a_reload(page: Page, site: Site) -> None:
    await site.submit("seen", MIXED)
    await expect(row(page, "seen")).to_contain_text("1 of 2 done · 1 failed")
    await expect(row(page, "seen")).to_contain_text("With errors")
    await row(page, "seen").click()
    await expect(page).to_have_url(re.compile(r"\?batch=seen$"))


async def test_a_batch_that_waits_says_for_what(page: Page, site: Site) -> None:
    await site.submit("stays", [{"id": "slow", "prompt": "slow cup"}])
    await site.pause("v1/batches/stays/pause", "the prompt is wrong")
    await expect(row(page, "stays")).to_contain_text("the prompt is wrong, by boss")
    await expect(row(page, "stays")).to_contain_text("Paused")


async def test_a_filter_shows_one_state_and_is_in_the_address(page: Page, site: Site) -> None:
    await site.submit("whole", [MIXED[0]])
    await site.ended("whole")
    await page.get_by_role("link", name="Completed", exact=True).click()
    await expect(page).to_have_url(re.compile(r"\?state=completed$"))
    await expect(row(page, "whole")).to_be_visible()
    await page.get_by_role("link", name="Expired").click()
    await expect(page.locator("main")).to_contain_text("No batch is in this state.")
    await page.go_back()
    await expect(row(page, "whole")).to_be_visible()


async def test_older_batches_come_on_request_and_stay(page: Page, site: Site) -> None:
    for k in range(55):
        await site.submit(f"many-{k:02}", [{"id": "a", "prompt": "a cup"}])
    await page.reload()
    await expect(page.locator(".batch")).to_have_count(50)
    await page.get_by_role("button", name="Older batches").click()
    await expect(row(page, "many-00")).to_be_visible()
    await site.submit("newest", [MIXED[0]])
    await expect(row(page, "newest")).to_be_visible()
    await expect(row(page, "many-00")).to_be_visible()


async def test_a_bar_says_how_much_of_a_limit_is_used(page: Page) -> None:
    quota = page.locator(".quota")
    await expect(quota).to_contain_text("0 of 20 images / min")
    await expect(quota).to_contain_text("0 of 4 in flight")
    await expect(quota.get_by_role("meter")).to_have_count(2)


async def test_an_account_is_paused_with_a_reason_and_resumed(page: Page) -> None:
    await page.get_by_role("button", name="Pause openai-main").click()
    await page.get_by_label("Reason").fill("the invoice is open")
    await page.get_by_label("For", exact=True).select_option("10 min")
    await page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    quota = page.locator(".quota")
    await expect(quota).to_contain_text("the invoice is open, by boss, for 10 min more")
    await page.get_by_role("button", name="Resume openai-main").click()
    await expect(quota).not_to_contain_text("the invoice is open")


@pytest.mark.parametrize(
    ("begin", "end"), [("Pause everything", "Resume everything"), ("Pause default", "Resume default")]
)
async def test_the_fleet_and_a_route_are_paused_with_a_reason(page: Page, begin: str, end: str) -> None:
    await page.get_by_role("button", name=begin).click()
    await page.get_by_label("Reason").fill("new prompts at noon")
    await page.keyboard.press("Enter")
    await expect(page.locator(".hold")).to_contain_text("new prompts at noon")
    await page.get_by_role("button", name=end, exact=True).click()
    await expect(page.locator(".hold")).to_have_count(0)


async def test_dead_letters_stand_by_reason_and_are_retried_together(
    page: Page, site: Site, visit: Visit
) -> None:
    async with Redis.from_url(site.server.url) as redis:
        for broken in ("{", "["):
            await redis.xadd("pixmill:jobs", {"data": broken})
    await page.reload()
    letters = page.locator(".dead", has_text="Not a job that can be read")
    await expect(letters).to_contain_text("2")
    await letters.get_by_role("button", name="Retry all 2").click()
    await expect(page.get_by_role("status")).to_contain_text("2 dead letters are tried again.")


async def test_a_reader_sees_no_dead_letters_and_no_pause(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["reader"])
    page = await visit.open()
    await expect(page.locator(".quota")).to_be_visible()
    await expect(page.get_by_role("button", name=re.compile("Pause|Retry"))).to_have_count(0)
    assert not [url for url in visit.requested if "/v1/dead" in url]
