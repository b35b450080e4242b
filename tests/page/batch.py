"""The view of a batch, as the tests look at it."""

from __future__ import annotations

import json
from typing import Any

from playwright.async_api import Locator, Page

TILE = ".tile"


def tile(page: Page, item: str) -> Locator:
    """The tile of an item."""
    return page.locator(f'{TILE}[data-id="{item}"]')


def words(page: Page, item: str) -> Locator:
    """The word of an item's state, and the sentence below it."""
    return tile(page, item).locator(".tile-panel")


def pictures(count: int) -> str:
    """The condition that so many tiles have pictures, and those in the window have loaded; others load on their way."""
    return f"""(() => {{
      const images = [...document.querySelectorAll("{TILE}.tone-ok img")];
      const seen = images.filter((image) => image.getBoundingClientRect().top < innerHeight);
      return images.length === {count} && seen.every((image) => image.complete && image.naturalWidth);
    }})()"""


def chip(page: Page, name: str) -> Locator:
    return page.locator(".chips .chip", has_text=name)


async def tones(page: Page) -> dict[str, str]:
    """The class of the state of each tile, by the item's id."""
    found: dict[str, str] = await page.evaluate(
        f"Object.fromEntries([...document.querySelectorAll({json.dumps(TILE)})]"
        ".map(each => [each.dataset.id, [...each.classList].find(name => name.startsWith('tone-'))]))"
    )
    return found


TONES: dict[str, str] = {
    "queued": "tone-idle",
    "throttled": "tone-idle",
    "retry_wait": "tone-idle",
    "running": "tone-act",
    "succeeded": "tone-ok",
    "failed": "tone-warn",
    "held": "tone-warn",
    "cancelled": "tone-off",
    "expired": "tone-off",
}


def tones_of(items: list[dict[str, Any]]) -> dict[str, str]:
    """The same from the items of the API."""
    return {item["id"]: TONES[item["state"]] for item in items}
