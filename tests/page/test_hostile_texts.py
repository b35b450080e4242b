"""A prompt, an error or metadata with markup, turned letters or 10,000 characters is a text within its bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from pixmill.contract import Job
from tests.daemon.live import refused
from tests.page.batch import TILE, tile
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><b data-hostile>${1}{{x}}'
TURNED = "\u202eevil\u202c \u2066\u2067 \u0645\u0631\u062d\u0628\u0627 \u202e"
LONG = "x" * 10_000
TALL = "Z\u0351\u036b\u0343\u036a" * 200
TEXTS = {"markup": MARKUP, "turned": TURNED, "long": LONG, "tall": TALL}
LONGEST_VALUE = 256  # of metadata
OVERFLOWING = """(() => {
  const tiles = [...document.querySelectorAll(".tile")];
  const sizes = new Set(tiles.map(({ offsetWidth, offsetHeight }) => `${offsetWidth} ${offsetHeight}`));
  const box = (it) => it.getBoundingClientRect();
  const isOut = (outer) => (it) => box(it).top < box(outer).top - 1 || box(it).bottom > box(outer).bottom + 1
    || box(it).left < box(outer).left - 1 || box(it).right > box(outer).right + 1;
  const parts = tiles.flatMap((tile) => [
    ...[...tile.querySelectorAll("*")].filter(isOut(tile)),
    ...[...tile.querySelectorAll(".tile-panel *")].filter(isOut(tile.querySelector(".tile-panel"))),
  ]);
  return [...sizes].slice(1).concat(parts.map((part) => part.className));
})()"""


async def refuse_in_kind(item: Claimed, job: Job) -> Outcome | None:
    """Fail with the prompt as the provider's sentence."""
    return refused(job.prompt)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser) -> AsyncIterator[Site]:
    async with open_site(decide=refuse_in_kind) as site:
        items = [
            {"id": name, "prompt": text, "metadata": {"title": text[:LONGEST_VALUE]}}
            for name, text in TEXTS.items()
        ]
        await site.submit("hostile", items)
        await site.ended("hostile")
        yield site


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", TEXTS)
async def test_a_hostile_text_stays_a_text_within_its_tile_and_its_dialog(
    visit: Visit, name: str, width: int
) -> None:
    await visit.page.set_viewport_size({"width": width, "height": 800})
    page = await visit.open(batch="hostile")
    await expect(page.locator(TILE)).to_have_count(len(TEXTS))
    assert await page.evaluate(OVERFLOWING) == [], "every tile has the same size, and its text stays inside"
    await tile(page, name).locator(".tile-open").click()
    dialog = page.locator("dialog[open]")
    await expect(dialog).to_contain_text(TEXTS[name].strip()[:1000])
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await dialog.evaluate("(box) => box.scrollWidth <= box.clientWidth")
    assert await page.evaluate("window.hacked ?? document.querySelector('[data-hostile]')") is None


async def test_a_turned_text_turns_nothing_beside_it(visit: Visit) -> None:
    page = await visit.open(batch="hostile")
    isolated = await tile(page, "turned").evaluate(
        "(tile) => [...tile.querySelectorAll('.tile-says, .tile-title, .tile-id')]"
        ".map(each => getComputedStyle(each).unicodeBidi)"
    )
    assert isolated
    assert set(isolated) <= {"isolate", "plaintext", "isolate-override"}
