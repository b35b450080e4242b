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

from daemon.telemetry.logs import configure_logs
from tests.page.batch import TILE
from tests.page.rig.browser import running_browser
from tests.page.rig.painted import painting
from tests.page.rig.pictures import items
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

WIDTHS: Final = (1440, 768, 390)
HEIGHT_PX: Final = 1000
SCHEMES: Final = ("light", "dark")
LANGUAGES: Final = ("en", "zh")
WINDOW: Final = 1000  # tiles that a view shows at most

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


async def _help(page: Page) -> None:
    await page.keyboard.press("?")


EMPTY: Final = [Shot("overview-empty", {}), Shot("new", {"view": "new"})]
FULL: Final = [
    Shot("overview", {}),
    Shot("help", {}, act=_help),
    Shot("batch-4", {"batch": "few"}, 4),
    Shot("batch-40", {"batch": "forty"}, 41),
    Shot("batch-1000", {"batch": "thousand"}, WINDOW),
    Shot("batch-all-failed", {"batch": "failed"}, 12),
    Shot("dialog-done", {"batch": "few", "item": "done"}, 4),
    Shot("dialog-refused", {"batch": "few", "item": "refused"}, 4),
    Shot("dialog-held", {"batch": "few", "item": "held"}, 4),
    Shot("new-plan", {"view": "new"}, act=_try_csv),
    Shot("new-faults", {"view": "new"}, act=_try_wrong_csv),
]


async def main(folder: Path) -> None:
    """All shots, first of an empty site, then of a full one, and then without its gateway."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing else runs yet
    with tempfile.TemporaryDirectory() as pictures:
        async with (
            running_browser() as browser,
            open_site(decide=painting(Path(pictures)), store_url=f"file://{pictures}") as site,
        ):
            await _all(browser, site, EMPTY, folder)
            await _fill(site)
            await _all(browser, site, FULL, folder)
            await _offline(browser, site, folder)


async def _fill(site: Site) -> None:
    thousand = [
        {"id": f"i{k:03d}", "prompt": f"a {'red' if k % 2 else 'blue'} kettle {k}"} for k in range(WINDOW)
    ]
    await site.submit("thousand", thousand)
    await site.submit("failed", [{"id": f"i{k}", "prompt": f"bad kettle {k}"} for k in range(12)])
    await site.submit("forty", items())
    for ident in ("thousand", "failed", "forty"):
        await site.ended(ident)
    await site.submit("few", FEW)
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
