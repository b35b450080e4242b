"""A visit fails for what must not happen on a page: an entry of the console, or a request to another host."""

from __future__ import annotations

import pytest
from playwright.async_api import Error

from tests.page.rig.visit import Visit

FOREIGN = "http://other.test/beacon"


async def test_an_entry_of_the_console_fails_the_visit(visit: Visit) -> None:
    page = await visit.open()
    await page.evaluate("console.warn('odd')")
    await page.evaluate("setTimeout(() => { throw new Error('broken') })")
    await visit.until("true")
    with pytest.raises(AssertionError, match="console") as failure:
        visit.check()
    assert "odd" in str(failure.value)
    visit.expected += ["odd", "broken"]
    visit.check()


async def test_a_request_to_another_host_fails_the_visit(visit: Visit) -> None:
    page = await visit.open()
    with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
        await page.goto(FOREIGN)
    with pytest.raises(AssertionError, match=FOREIGN):
        visit.check()
    visit.requested.remove(FOREIGN)
    visit.check()
