"""The clock of the page: the server's time from whole seconds, and timers that rest while nobody looks."""

from __future__ import annotations

from typing import Any

from tests.page.rig.visit import Visit

TIME = """const load = () => import(new URL("page/core/time.js", location));"""
# The server's clock as the page takes it, less its own, after replies that were sent and received at these seconds.
OFFSETS = f"""async (replies) => {{
  {TIME}
  const {{ learn, now }} = await load();
  return replies.map(([server, sent, received]) => {{
    learn(new Date(server * 1000).toUTCString(), sent * 1000, received * 1000);
    return Math.round((now() - Date.now()) / 10) / 100;
  }});
}}"""
CALLS = f"""async () => {{
  {TIME}
  const {{ every }} = await load();
  let isHidden = false;
  Object.defineProperty(document, "hidden", {{ get: () => isHidden }});
  window.calls = 0;
  window.stop = every(1000, () => calls++);
  window.hide = (value) => {{
    isHidden = value;
    document.dispatchEvent(new Event("visibilitychange"));
  }};
}}"""


async def offsets(visit: Visit, *replies: tuple[float, float, float]) -> list[float]:
    page = await visit.open(view="new")
    # These seconds are far from what the page has learnt, so it begins anew.
    found: list[float] = await page.evaluate(OFFSETS, replies)
    return found


async def test_each_reply_narrows_the_bounds_of_the_servers_clock(visit: Visit) -> None:
    found = await offsets(visit, (1000, 500.0, 500.2), (1000, 500.6, 500.8))
    assert found == [500.4, 500.1]


async def test_a_clock_that_was_set_begins_anew(visit: Visit) -> None:
    assert (await offsets(visit, (1000, 500, 500), (1000, 900, 900)))[-1] == 100.5


async def test_a_timer_rests_while_the_tab_is_hidden(visit: Visit) -> None:
    async def calls() -> Any:
        return await page.evaluate("calls")

    await visit.page.clock.install()
    page = await visit.open(view="new")
    await page.evaluate(CALLS)
    await page.clock.run_for(3500)
    assert await calls() == 3
    await page.evaluate("hide(true)")
    await page.clock.run_for(10_000)
    assert await calls() == 3
    await page.evaluate("hide(false)")
    assert await calls() == 4, "at once when it is seen again"
    await page.evaluate("stop()")
    await page.clock.run_for(5000)
    assert await calls() == 4
