"""A page in the browser, with everything on record that must not happen on it."""

from __future__ import annotations

import asyncio
import re
import time
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode, urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, expect

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
GRAVE = ("serious", "critical")
WAIT_S = 15.0
LOOK_S = 0.02


class Visit:
    """One person at the page. `check` fails where the console has an entry, or a request went to another host.

    `expected` are patterns of console entries that the test provokes: Chromium itself reports each failed request.
    """

    def __init__(self, url: str, context: BrowserContext, page: Page) -> None:
        self.url = url
        self.context = context
        self.page = page
        self.expected: list[str] = []
        self.complaints: list[str] = []
        self.requested: list[str] = []
        context.set_default_timeout(WAIT_S * 1000)
        expect.set_options(timeout=WAIT_S * 1000)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        context.on("request", self._note_request)

    async def open(self, **query: str) -> Page:
        """Go to the view that the query names, and wait until it is drawn."""
        await self.page.goto(f"{self.url}/?{urlencode(query)}")
        await self.page.locator("main h1").first.wait_for()
        return self.page

    async def sign_in(self, key: str) -> None:
        """Have the session of a key, as after the sign-in view."""
        reply = await self.context.request.post(f"{self.url}/v1/session", data={"key": key})
        assert reply.status == 204, await reply.text()

    async def until(self, condition: str, timeout_s: float = WAIT_S) -> Any:
        """Evaluate an expression until it is true; its value.

        Playwright's own `wait_for_function` evaluates inside of the page, which the policy of the page forbids.
        """
        deadline = time.monotonic() + timeout_s
        while not (value := await self.page.evaluate(condition)):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {condition}")
            await asyncio.sleep(LOOK_S)
        return value

    async def violations(self) -> list[str]:
        """The serious and critical findings of axe, each with its place."""
        await self.page.evaluate(AXE)
        found = await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{rule['id']} ({rule['impact']}): {node['html'][:200]} {node.get('failureSummary', '')}"
            for rule in found["violations"]
            if rule["impact"] in GRAVE
            for node in rule["nodes"]
        ]

    def check(self) -> None:
        """Fail with every entry of the console that was not expected, and every foreign address."""
        unexpected = [
            entry for entry in self.complaints if not any(re.search(each, entry) for each in self.expected)
        ]
        assert not unexpected, f"the console of the page is not empty: {unexpected}"
        own = urlsplit(self.url).netloc
        foreign = [url for url in self.requested if urlsplit(url).netloc not in (own, "")]
        assert not foreign, f"the page has requested {foreign}"

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _note_request(self, request: Request) -> None:
        self.requested.append(request.url)
