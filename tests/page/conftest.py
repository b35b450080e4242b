"""One browser for each worker of the tests, one site for each module, and visits that must leave no complaint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.page.rig.browser import CHROMIUM, running_browser
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

HERE = Path(__file__).parent
Enter = Callable[..., Awaitable[Visit]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests on one event loop: a browser belongs to the loop that started it."""
    for item in items:
        if item.path.is_relative_to(HERE) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium on PATH; on Debian: apt install chromium")
    async with running_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(browser: Browser) -> AsyncIterator[Site]:
    """An open site, whose callers need no key. A module that needs another one has a fixture of this name."""
    async with open_site() as site:
        yield site


@pytest_asyncio.fixture(loop_scope="session")
async def enter(browser: Browser, site: Site) -> AsyncIterator[Enter]:
    """Open a visit with these options of a browser's context; all are checked at the end."""
    visits: list[Visit] = []
    async with AsyncExitStack() as stack:

        async def begin(**options: Any) -> Visit:
            context = await browser.new_context(**({"locale": "en-GB"} | options))
            stack.push_async_callback(context.close)
            visits.append(Visit(site.url, context, await context.new_page()))
            return visits[-1]

        yield begin
    for visit in visits:
        visit.check()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(enter: Enter) -> Visit:
    """A person with a window of 1280 by 720."""
    return await enter()
