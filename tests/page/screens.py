"""Pictures of every view, for eyes: `python -m tests.page.screens FOLDER`, in each size, theme and language."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from playwright.async_api import Browser, Page, expect
from redis.asyncio import Redis

from daemon.telemetry.logs import configure_logs
from tests.page.batch import TILE, tile
from tests.page.rig.browser import running_browser
from tests.page.rig.painted import painting
from tests.page.rig.pictures import items
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

WIDTHS: Final = (1440, 768, 390)
HEIGHT_PX: Final = 1000
SCHEMES: Final = ("light", "dark")
LANGUAGES: Final = ("en", "zh")
FILLED_S: Final = 300
WINDOW: Final = 1000  # tiles that a view shows at most

STATES = [
    {"id": "done", "prompt": "a red kettle on a white table"},
    {"id": "refused", "prompt": "bad kettle"},
    {"id": "lost", "prompt": "lost kettle"},
    {"id": "held", "prompt": "odd kettle"},
    {"id": "running", "prompt": "slow kettle"},
    {"id": "throttled", "prompt": "busy kettle"},
    {"id": "retrying", "prompt": "weak kettle"},
    {"id": "cancelled", "prompt": "a late kettle", "not_before": "2099-01-01T00:00:00Z"},
    {"id": "later", "prompt": "a later kettle", "not_before": "2099-01-01T00:00:00Z"},
]
FEW = [
    {"id": "done", "prompt": "a red kettle on a white table"},
    {"id": "refused", "prompt": "bad kettle"},
    {"id": "held", "prompt": "odd kettle"},
    {"id": "running", "prompt": "slow kettle"},
]


@dataclass(frozen=True)
class Shot:
    """A place of the page. `tiles`: how many must be there first; `act` comes before the picture."""

    name: str
    place: Mapping[str, str]
    tiles: int = 0
    act: Callable[[Page], Awaitable[None]] | None = None


async def _try_csv(page: Page) -> None:
    rows = "id,title,size\n" + "".join(f"k{k},red kettle {k},1024x1024\n" for k in range(40))
    file = {"name": "spring.csv", "mimeType": "text/csv", "buffer": rows.encode()}
    await page.locator("input[type=file]").set_input_files(file)  # type: ignore[arg-type]  # a TypedDict
    await expect(page.get_by_role("region").last).to_contain_text("40")


async def _try_wrong_csv(page: Page) -> None:
    file = {"name": "wrong.csv", "mimeType": "text/csv", "buffer": b"id,prompt,size\nk1,a cup,3\nk2,,\n"}
    await page.locator("input[type=file]").set_input_files(file)  # type: ignore[arg-type]  # a TypedDict
    await expect(page.locator(".new-lines tr:has(td)")).to_have_count(2)


async def _listed(page: Page) -> None:
    await expect(page.locator(".batch")).to_have_count(6)


async def _help(page: Page) -> None:
    await page.keyboard.press("?")


async def _prompt(page: Page) -> None:
    await page.locator("input[type=radio]").last.check()


async def _select(page: Page) -> None:
    for item in ("refused", "held"):
        await tile(page, item).locator(".tile-open").click(modifiers=["Control"])


async def _question(page: Page) -> None:
    await tile(page, "held").locator("[data-do=retry]").click()
    await expect(page.locator("#sure")).to_be_visible()


async def _pause(page: Page) -> None:
    await page.locator(".quota .button").first.click()
    await expect(page.locator("#pause")).to_be_visible()


async def _letters(page: Page) -> None:
    await page.locator(".dead summary").first.click()


EMPTY: Final = [Shot("overview-empty", {}), Shot("new", {"view": "new"})]
SIGN_IN: Final = [Shot("sign-in", {})]
FULL: Final = [
    Shot("overview", {}, act=_listed),
    Shot("help", {}, act=_help),
    Shot("batch-4", {"batch": "few"}, 4),
    Shot("batch-40", {"batch": "forty"}, 41),
    Shot("batch-1000", {"batch": "thousand"}, WINDOW),
    Shot("batch-all-failed", {"batch": "failed"}, 12),
    Shot("dialog-done", {"batch": "few", "item": "done"}, 4),
    Shot("dialog-refused", {"batch": "few", "item": "refused"}, 4),
    Shot("dialog-held", {"batch": "few", "item": "held"}, 4),
    Shot("batch-states", {"batch": "states"}, len(STATES)),
    Shot("batch-selection", {"batch": "states"}, len(STATES), _select),
    Shot("batch-question", {"batch": "states"}, len(STATES), _question),
    Shot("batch-paused", {"batch": "paused"}, 3),
    Shot("dialog-running", {"batch": "states", "item": "running"}, len(STATES)),
    Shot("pause", {}, act=_pause),
    Shot("dead-letters", {}, act=_letters),
    Shot("new-prompt", {"view": "new"}, act=_prompt),
    Shot("new-plan", {"view": "new"}, act=_try_csv),
    Shot("new-faults", {"view": "new"}, act=_try_wrong_csv),
]


async def main(folder: Path) -> None:
    """All shots, first of an empty site, then of a full one, and then without its gateway."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing else runs yet
    with tempfile.TemporaryDirectory() as pictures:
        store = f"file://{pictures}"
        async with (
            running_browser() as browser,
            open_site(decide=painting(Path(pictures)), store_url=store) as site,
            open_site(with_keys=True) as closed,
        ):
            await _all(browser, site, EMPTY, folder)
            await _fill(site)
            await _all(browser, site, FULL, folder)
            await _offline(browser, site, folder)
            await _all(browser, closed, SIGN_IN, folder)


async def _fill(site: Site) -> None:
    thousand = [
        {"id": f"i{k:03d}", "prompt": f"a {'red' if k % 2 else 'blue'} kettle {k}"} for k in range(WINDOW)
    ]
    await site.submit("thousand", thousand)
    await site.submit("failed", [{"id": f"i{k}", "prompt": f"bad kettle {k}"} for k in range(12)])
    await site.submit("forty", items())
    for ident in ("thousand", "failed", "forty"):
        await site.ended(ident, FILLED_S)
    await site.submit("few", FEW)
    await site.submit("states", STATES)
    await site.http.post("/v1/batches/states/cancel", json={"items": ["cancelled"]})
    await site.submit("paused", [{"id": f"i{k}", "prompt": f"slow kettle {k}"} for k in range(3)])
    await site.pause("v1/batches/paused/pause", "the prompt is wrong")
    async with Redis.from_url(site.server.url) as redis:
        for broken in ("{", "["):
            await redis.xadd("pixmill:jobs", {"data": broken})
    await site.pause("v1/routes/default/pause")


async def _all(browser: Browser, site: Site, shots: list[Shot], folder: Path) -> None:
    for width, scheme, language in product(WIDTHS, SCHEMES, LANGUAGES):
        async with _window(browser, site, width, scheme) as visit:
            for shot in shots:
                page = await visit.open(**shot.place, lang=language)
                await expect(page.locator(TILE)).to_have_count(shot.tiles)
                if shot.act is not None:
                    await shot.act(page)
                await _shoot(page, folder / f"{shot.name}-{width}-{scheme}-{language}.png")


async def _offline(browser: Browser, site: Site, folder: Path) -> None:
    for width, scheme, language in product(WIDTHS, SCHEMES, LANGUAGES):
        async with _window(browser, site, width, scheme) as visit:
            page = await visit.open(batch="few", lang=language)
            await site.stop_gateway()
            await expect(page.locator(".banner")).to_be_visible()
            await _shoot(page, folder / f"offline-{width}-{scheme}-{language}.png")
            await site.start_gateway()


@asynccontextmanager
async def _window(browser: Browser, site: Site, width: int, scheme: str) -> AsyncIterator[Visit]:
    context = await browser.new_context(
        viewport={"width": width, "height": HEIGHT_PX},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    try:
        yield Visit(site.url, context, await context.new_page())
    finally:
        await context.close()


async def _shoot(page: Page, path: Path) -> None:
    await page.screenshot(path=path, animations="disabled")
    print(path)


if __name__ == "__main__":
    configure_logs(level="error")
    asyncio.run(main(Path(sys.argv[1])))
