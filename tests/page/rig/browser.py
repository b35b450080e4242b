"""The chromium of this machine, and its address book: it finds this machine and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """A browser without a window; `CHROMIUM` must not be None."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[ONLY_HERE])
        try:
            yield browser
        finally:
            await browser.close()
