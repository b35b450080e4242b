"""The feed in the browser: a snapshot, then each event after it; nothing once it is closed, little while hidden."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest_asyncio

from tests.page.rig.visit import Visit

SECOND = 1000
# The feed of `rig` reads streams that the test writes. `settle` lets all promises run that need no time.
RIG = """async () => {
  const at = (name) => import(new URL(`page/core/${name}.js`, location));
  const [{ follow }, { link }] = [await at("feed"), await at("link")];
  const own = window.fetch;
  const rig = (window.rig = { streams: [], events: [], states: [], loads: 0, refusal: null, isHidden: false });
  window.fetch = (url, options) => (url.startsWith("fake") ? rig.connect(url, options.signal) : own(url, options));
  rig.connect = async (url, signal) => {
    if (rig.refusal) return new Response("{}", { status: rig.refusal });
    const stream = { url, isOpen: true };
    const start = (bytes) => {
      stream.send = (text) => bytes.enqueue(new TextEncoder().encode(`${text}\\n\\n`));
      signal.addEventListener("abort", () => {
        stream.isOpen = false;
        bytes.error(signal.reason);
      });
    };
    rig.streams.push(stream);
    return new Response(new ReadableStream({ start }));
  };
  rig.load = async () => `${rig.loads}-0`;
  rig.begin = () => {
    rig.feed = follow({
      path: "fake",
      load: (signal) => (rig.loads++, rig.load(signal)),
      onEvent: (kind) => rig.events.push(kind),
      onState: (state) => rig.states.push(state),
    });
  };
  rig.settle = async () => {
    for (let n = 0; n < 20; n++) await own("page/icon.svg").then((reply) => reply.text());
    const { streams, events, states, loads } = rig;
    const open = streams.map(({ isOpen }) => isOpen);
    return { urls: streams.map(({ url }) => url), open, events, states, loads, feed: link().feed };
  };
  Object.defineProperty(document, "hidden", { get: () => rig.isHidden });
  rig.hide = (isHidden) => {
    rig.isHidden = isHidden;
    document.dispatchEvent(new Event("visibilitychange"));
  };
}"""


class Rig:
    """A feed whose streams, loads and seconds are the test's."""

    def __init__(self, visit: Visit) -> None:
        self._page = visit.page

    async def do(self, code: str) -> dict[str, Any]:
        """Run code about `rig`, and let the feed react; what it has done until now."""
        await self._page.evaluate(f"() => {{ {code} }}")
        return await self.state()

    async def state(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._page.evaluate("rig.settle()")
        return found

    async def wait(self, seconds: int) -> dict[str, Any]:
        """Let so many seconds pass on the page's clock."""
        for _ in range(seconds):
            await self._page.clock.run_for(SECOND)
        return await self.state()


@pytest_asyncio.fixture(loop_scope="session")
async def rig(visit: Visit) -> Rig:
    await visit.page.clock.install()
    page = await visit.open(view="new")  # a view without a feed
    # Until it is paused, the clock goes on by itself between two steps of the test.
    now_ms = await page.evaluate("Date.now()")
    await page.clock.pause_at(datetime.fromtimestamp(now_ms / 1000 + 2, UTC))
    await page.evaluate(RIG)
    return Rig(visit)


async def test_events_come_once_and_after_the_snapshot(rig: Rig) -> None:
    found = await rig.do("rig.begin()")
    assert (found["loads"], found["urls"], found["feed"]) == (1, ["fake?after=1-0"], "connecting")
    found = await rig.do(
        "const [stream] = rig.streams;"
        "for (const id of ['1-0', '2-0', '2-0', '3-0']) stream.send(`id: ${id}\\nevent: job.e${id}\\ndata: {}`)"
    )
    assert (found["events"], found["states"]) == (["job.e2-0", "job.e3-0"], ["live"])


async def test_a_feed_that_is_closed_while_it_loads_does_nothing_more(rig: Rig) -> None:
    await rig.do("rig.load = () => new Promise((resolve) => (rig.loaded = resolve)); rig.begin()")
    await rig.do("rig.feed.close()")
    found = await rig.do("rig.loaded('1-0')")
    assert (found["urls"], found["states"], found["feed"]) == ([], [], None)


async def test_a_feed_that_is_closed_with_frames_on_their_way_calls_nothing(rig: Rig) -> None:
    await rig.do("rig.begin()")
    found = await rig.do("rig.streams[0].send('id: 2-0\\nevent: a\\ndata: {}'); rig.feed.close()")
    assert (found["events"], found["open"], found["feed"]) == ([], [False], None)


async def test_a_tab_that_is_opened_hidden_has_no_stream_until_it_is_seen(rig: Rig) -> None:
    await rig.do("rig.hide(true); rig.begin()")
    found = await rig.wait(90)
    assert (found["loads"], found["urls"]) == (1, [])
    found = await rig.do("rig.hide(false)")
    assert found["urls"] == ["fake?after=1-0"]


async def test_a_hidden_tab_closes_its_stream_after_a_minute_for_as_long(rig: Rig) -> None:
    await rig.do("rig.begin()")
    await rig.do("rig.streams[0].send('id: 5-0\\nevent: a\\ndata: {}'); rig.hide(true)")
    assert (await rig.wait(59))["open"] == [True]
    found = await rig.wait(180)
    assert (found["open"], found["loads"]) == ([False], 1)
    found = await rig.do("rig.hide(false)")
    assert (found["urls"][1:], found["loads"]) == (["fake?after=5-0"], 1)


async def test_a_stream_without_a_byte_for_45_s_is_replaced_by_polls(rig: Rig) -> None:
    await rig.do("rig.begin()")
    assert (await rig.wait(44))["open"] == [True]
    found = await rig.wait(3)
    assert (found["open"], found["states"], found["loads"]) == ([False], ["polling"], 2)
    found = await rig.wait(10)
    assert (len(found["urls"]), found["loads"]) == (1, 4)
    assert (await rig.wait(60))["urls"][-1:] == ["fake?after=13-0"]


async def test_a_resync_reads_the_snapshot_again_and_goes_on(rig: Rig) -> None:
    await rig.do("rig.begin()")
    found = await rig.do(
        "const [stream] = rig.streams;"
        "stream.send('id: 9-0\\nevent: resync\\ndata: {}');"
        "stream.send('id: 9-0\\nevent: old\\ndata: {}');"
        "stream.send('id: 10-0\\nevent: new\\ndata: {}')"
    )
    assert (found["loads"], found["events"], len(found["urls"])) == (2, ["new"], 1)


async def test_a_refusal_ends_the_feed(rig: Rig) -> None:
    found = await rig.do("rig.refusal = 403; rig.begin()")
    assert (found["states"], found["feed"]) == (["ended"], "refused")
    assert (await rig.wait(30))["loads"] == 1
