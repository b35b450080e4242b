"""Makes docs/page.png, the page amid the products of the demo: `python -m tests.page.rig.pictures [FOLDER]`.

The picture keeps the digest of the page's files, so a test sees when the page has changed since.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import sys
from pathlib import Path
from typing import Any, Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.async_api import Browser, expect

from daemon.demo.run import PRODUCTS, TEMPLATE
from daemon.gateway.page.files import assets
from daemon.telemetry.logs import configure_logs
from tests.page.batch import TILE, pictures
from tests.page.rig.browser import running_browser
from tests.page.rig.site import open_site
from tests.page.rig.visit import Visit

DOCS: Final = Path(__file__).parents[3] / "docs"
NAME: Final = "page.png"
SIZE: Final = {"width": 1440, "height": 1080}
RECORD: Final = "page-files"  # the field of the picture
BATCH: Final = "spring"
# A window of 19 is spent: 16 are drawn, one is refused, and the last two take long; the others wait for the next one.
# The window and the long ones outlast the drawing also on a busy machine.
QUOTA: Final = {"images": "19/10min", "in_flight": 8}
LONG: Final = ("sku-018", "sku-019")
DRAWN_S: Final = 300.0
# The header counts what the batch has, and one of the tiles says which quota it waits for.
HALF_WAY: Final = f"""
  {pictures(16)} && document.querySelectorAll(".tile.tone-warn").length === 1 &&
  document.querySelectorAll(".tile.tone-act").length === 2 &&
  /pictures today\\s*16/.test(document.querySelector(".facts").textContent) &&
  /waits for openai-main, \\d+ min/.test(document.querySelector(".tiles").textContent)
"""


def digest() -> str:
    """The digest of all files of the page."""
    whole = hashlib.sha256()
    for name, asset in sorted(assets().items()):
        whole.update(f"{name}\n{hashlib.sha256(asset.plain).hexdigest()}\n".encode())
    return whole.hexdigest()


def items() -> list[dict[str, Any]]:
    """The products of the demo as the items of a batch."""
    made = []
    with PRODUCTS.open(newline="") as file:
        for row in csv.DictReader(file):
            prompt = TEMPLATE.format(**row) + (", takes 900 s" if row["id"] in LONG else "")
            title = f"{row['color']} {row['material']} {row['title']}".capitalize()
            made.append(
                {"id": row["id"], "prompt": prompt, "size": row["size"], "metadata": {"title": title}}
            )
    return made


async def take(browser: Browser, folder: Path) -> Path:
    """Make the picture in `folder`."""
    async with open_site(quota=QUOTA, latency_s=(0.2, 0.4), plain=False) as site:
        context = await browser.new_context(viewport=SIZE, locale="en-GB", color_scheme="light")  # type: ignore[arg-type]  # a TypedDict
        try:
            visit = Visit(site.url, context, await context.new_page())
            await site.submit(BATCH, items())
            page = await visit.open(batch=BATCH)
            await expect(page.locator(TILE)).to_have_count(len(items()))
            await visit.until(HALF_WAY, DRAWN_S)
            data = await page.screenshot(animations="disabled")
            visit.check()
        finally:
            await context.close()
    return _recorded(data, folder / NAME)


def _recorded(data: bytes, path: Path) -> Path:
    info = PngInfo()
    info.add_text(RECORD, digest())
    with Image.open(io.BytesIO(data)) as picture:
        picture.convert("RGB").save(path, "PNG", optimize=True, pnginfo=info)
    return path


async def main(folder: Path) -> None:
    async with running_browser() as browser:
        print(await take(browser, folder))


if __name__ == "__main__":
    configure_logs(level="error")
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS))
