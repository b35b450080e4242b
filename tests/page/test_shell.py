"""The frame around every view: the top line, the connection, theme and language, sign-in and sign-out."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, expect

from daemon.gateway.callers.keys_file import add_key, revoke_key
from tests.daemon.harness import eventually
from tests.page.conftest import Enter
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser) -> AsyncIterator[Site]:
    async with open_site(with_keys=True, prefix="/pixmill") as site:
        yield site


async def test_the_top_line_has_workers_and_todays_pictures(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["maker"])
    page = await visit.open()
    await site.submit("today", 2)
    await site.ended("today")
    await expect(page.locator(".facts")).to_contain_text(
        re.compile(r"workers\s*1\D.*pictures today\s*2", re.DOTALL)
    )


async def test_where_events_do_not_get_through_the_page_polls(visit: Visit, site: Site) -> None:
    visit.expected.append("Failed to load resource")
    await visit.sign_in(site.keys["maker"])
    await visit.page.route("**/v1/events*", lambda route: route.abort())
    page = await visit.open()
    await expect(page.locator(".link")).to_have_text("Polling every 5 s", timeout=20_000)
    await site.submit("polled", 1)
    await expect(page.locator(".batch", has_text="polled")).to_be_visible(timeout=15_000)
    await expect(page.locator(".banner")).to_have_count(0)
    await page.unroute("**/v1/events*")
    await expect(page.locator(".link")).to_have_text("Live", timeout=15_000)


async def test_the_top_line_with_a_key_is_no_wider_than_its_window(enter: Enter, site: Site) -> None:
    visit = await enter(viewport={"width": 360, "height": 800})
    await visit.sign_in(site.keys["maker"])
    for place in ({}, {"view": "new"}):
        page = await visit.open(**place)
        await expect(page.locator(".facts")).to_be_visible()
        await visit.until("document.documentElement.scrollWidth <= innerWidth")


async def test_a_link_leads_to_the_other_language_and_the_choice_stays(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["maker"])
    page = await visit.open(lang="zh")
    await expect(page.get_by_role("heading", name="批次")).to_be_visible()
    await expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    await page.get_by_role("button", name="English").click()
    await expect(page.get_by_role("heading", name="Batches")).to_be_visible()
    await page.get_by_role("button", name="中文").click()
    await visit.open()
    await expect(page.get_by_role("heading", name="批次")).to_be_visible()


async def test_another_view_opens_also_before_its_code_was_loaded(visit: Visit, site: Site) -> None:
    await visit.page.clock.install()  # no time passes in which the page would load it
    await visit.sign_in(site.keys["maker"])
    page = await visit.open(view="new", lang="en")
    assert not [url for url in visit.requested if "/overview/" in url]
    await page.get_by_role("link", name="Pixmill").click()
    await expect(page.get_by_role("heading", name="Batches")).to_be_visible()


async def test_the_other_views_are_loaded_before_somebody_opens_them(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["maker"])
    await visit.open(view="new")

    async def loaded() -> bool:
        return {"overview", "batch"} <= {url.split("/")[-2] for url in visit.requested}

    await eventually(loaded, 15)


async def test_a_theme_is_chosen_and_stays(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["maker"])
    page = await visit.open()
    await page.get_by_role("button", name="Theme: system").click()
    await page.get_by_role("button", name="Theme: light").click()
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()


async def test_a_past_time_is_rounded_and_a_coming_one_never_too_short(visit: Visit, site: Site) -> None:
    await visit.sign_in(site.keys["maker"])
    page = await visit.open(lang="en")
    found = await page.evaluate(
        """async () => {
          const { duration, took } = await import(new URL("page/core/words.js", document.baseURI));
          return [[1.26, 9.6, 61.4, 7200.4].map(took), [1.01, 61, 7200].map(duration)];
        }"""
    )
    assert found == [["1.3 s", "9.6 s", "61 s", "2 h"], ["2 s", "61 s", "2 h"]]


async def test_a_wrong_key_is_refused_in_words(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 401")
    page = await visit.open()
    await page.get_by_label("Key", exact=True).fill("pxm_wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator(".fault")).to_contain_text("This key is not valid here")


async def test_a_sign_out_ends_the_session(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 401")
    await visit.sign_in(site.keys["maker"])
    page = await visit.open()
    await page.get_by_role("button", name="Sign out maker").click()
    await expect(page.get_by_label("Key", exact=True)).to_be_visible()
    assert await visit.context.cookies() == []


async def test_a_revoked_key_leads_to_the_sign_in(visit: Visit, site: Site) -> None:
    visit.expected.append("status of 401")
    keys = site.settings.gateway.keys_file
    assert keys is not None
    await visit.sign_in(add_key(keys, "guest", "default", frozenset({"read"})))
    page = await visit.open()
    await expect(page.locator(".quota")).to_be_visible()
    revoke_key(keys, "guest")
    await expect(page.get_by_label("Key", exact=True)).to_be_visible(timeout=15_000)
