"""Measures the page in a browser with 1,000 tiles: its first paint, its longest tasks, and how late a tile follows.

Run it as ``python -m benchmarks.page``. Valkey, gateway and browser are real; items end as the benchmark says, so no
provider sets the pace. An event is late by the time from its settle until its tile has changed, on one clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from playwright.async_api import Browser

from benchmarks.figures import Figure, merged, percentile, shown
from benchmarks.processes import environment
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from daemon.telemetry.logs import configure_logs
from pixmill.contract import Job
from tests.daemon.live import Decide
from tests.page.rig.browser import CHROMIUM, running_browser
from tests.page.rig.painted import painting
from tests.page.rig.site import Site, open_site
from tests.page.rig.visit import Visit

SINGLE_GAP_S = 0.2
FIRST_PAINT_MS, TASK_MS, LATE_MS = 1000.0, 100.0, 100.0
FRAMES = 20  # in each second
ENDS_S = 120.0
WINDOW_S = 4.0  # in which a new window loads the browser's own pages, beside which ours would seem slow
LAST_S = 15.0  # until a tile counts as one that never changes
# Long tasks are those above 50 ms; the page is asked for them at the end. A tile is noted when its class changes.
OBSERVE = """
  window.seen = { tasks: [], tiles: {}, frames: {}, paintedMs: {} };
  const tiles = document.getElementsByClassName("tile");
  new PerformanceObserver((list) => {
    for (const task of list.getEntries()) seen.tasks.push(task.duration);
  }).observe({ type: "longtask", buffered: true });
  const beat = (ms) => {
    const second = Math.floor(ms / 1000);
    seen.frames[second] = (seen.frames[second] ?? 0) + 1;
    const count = tiles.length;
    if (!(count in seen.paintedMs)) setTimeout(() => { seen.paintedMs[count] ??= performance.now(); });
    requestAnimationFrame(beat);
  };
  requestAnimationFrame(beat);
  new MutationObserver((changes) => {
    for (const { target } of changes)
      if (target.dataset?.id) seen.tiles[target.dataset.id] = performance.timeOrigin + performance.now();
  }).observe(document, { subtree: true, attributes: true, attributeFilter: ["class"] });
"""
CONTENTFUL = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit code is 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "page.json", help="where to")
    sizes = Options()
    for name, value in asdict(sizes).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    sizes = Options(options.tiles, options.singles, options.rush_s)
    if CHROMIUM is None:
        print("This needs chromium on PATH; on Debian: apt install chromium.", file=sys.stderr)
        return 1
    configure_logs(level="error")
    about = environment()
    figures = asyncio.run(measured(sizes))
    run = {"figures": [asdict(figure) | {"reached": figure.reached} for figure in figures]}
    for row in merged([run]):
        print(f"{shown(row)} {'reached' if row['reached'] else 'MISSED'}")
    write(options.json, about, **run)
    return 0 if all(figure.reached for figure in figures) else 1


@dataclass(frozen=True)
class Options:
    """The sizes: tiles, the items among them that end alone, and the time in which all others end (two events each)."""

    tiles: int = 1000
    singles: int = 50
    rush_s: float = 60.0


@dataclass
class Pace:
    """Lets items end one after the other, and notes when each did."""

    gap_s: float = 0.0
    ended_ms: dict[str, float] = field(default_factory=dict)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def around(self, decide: Decide) -> Decide:
        async def paced(item: Claimed, job: Job) -> Outcome | None:
            outcome = await decide(item, job)
            await self.go.wait()
            await asyncio.sleep(self.gap_s)
            self.ended_ms[item.uid.rpartition("/")[2]] = time.time() * 1000
            return outcome

        return paced


async def measured(sizes: Options) -> list[Figure]:
    """All figures: a batch that has ended is opened, then one is watched while it runs."""
    pace = Pace()
    with tempfile.TemporaryDirectory(prefix="pixmill-page-") as folder:
        decide = pace.around(painting(Path(folder)))
        async with (
            running_browser() as browser,
            open_site(decide=decide, store_url=f"file://{folder}") as site,
        ):
            return [*await opened(browser, site, pace, sizes), *await watched(browser, site, pace, sizes)]


async def opened(browser: Browser, site: Site, pace: Pace, sizes: Options) -> list[Figure]:
    """A batch that has ended: the time until its tiles are there."""
    pace.go.set()
    await site.submit("opened", [{"id": f"i{k}", "prompt": f"cup {k}"} for k in range(sizes.tiles)])
    await site.ended("opened")
    async with visiting(browser, site, "opened") as visit:
        tiles_ms = await visit.until(f"seen.paintedMs[{sizes.tiles}]", ENDS_S)
        painted: dict[str, float] = await visit.page.evaluate("seen.paintedMs")
        await asyncio.sleep(1)  # the small pictures come after the tiles
        return [
            Figure("ms to the first paint", await visit.page.evaluate(CONTENTFUL), FIRST_PAINT_MS),
            Figure(
                "ms to the first tiles",
                min(painted[count] for count in painted if int(count)),
                FIRST_PAINT_MS,
            ),
            Figure(f"ms to {sizes.tiles} tiles", tiles_ms),
            Figure("ms of the longest task while it opens", await longest(visit), TASK_MS),
        ]


async def watched(browser: Browser, site: Site, pace: Pace, sizes: Options) -> list[Figure]:
    """A batch that runs: some items end alone, then all others in one go."""
    pace.go.clear()
    await site.submit("watched", [{"id": f"i{k}", "prompt": f"cup {k}"} for k in range(sizes.tiles)])
    async with visiting(browser, site, "watched") as visit:
        await visit.until(f"seen.paintedMs[{sizes.tiles}]", ENDS_S)
        await visit.page.evaluate("seen.tasks.length = 0")
        pace.ended_ms.clear()
        pace.gap_s = SINGLE_GAP_S
        pace.go.set()
        await visit.until(f"document.querySelectorAll('.tile.tone-ok').length >= {sizes.singles}", ENDS_S)
        late_ms = await lateness_ms(visit, dict([*pace.ended_ms.items()][: sizes.singles]))
        pace.gap_s = sizes.rush_s / (sizes.tiles - sizes.singles)
        await visit.page.evaluate("seen.frames = {}")
        await visit.until(f"document.querySelectorAll('.tile.tone-ok').length === {sizes.tiles}", ENDS_S)
        frames = list((await visit.page.evaluate("seen.frames")).values())
        return [
            Figure("ms from a settle to its tile, median", percentile(late_ms, 50), LATE_MS),
            Figure("ms from a settle to its tile, p95", percentile(late_ms, 95), LATE_MS),
            Figure("ms of the longest task while it runs", await longest(visit), TASK_MS),
            Figure(
                f"frames in the slowest second of {2 * (sizes.tiles - sizes.singles)} events",
                min(frames[1:-1]),
                at_least=FRAMES,
            ),
        ]


async def lateness_ms(visit: Visit, ended_ms: Mapping[str, float]) -> list[float]:
    """How late each tile was. The run fails for a tile that never changes after its item has ended."""
    await visit.until(
        f"Object.entries({json.dumps(ended_ms)}).every(([item, ms]) => seen.tiles[item] >= ms)", LAST_S
    )
    tiles: dict[str, float] = await visit.page.evaluate("seen.tiles")
    return [tiles[item] - at for item, at in ended_ms.items()]


async def longest(visit: Visit) -> float:
    """The longest of the tasks above 50 ms; a shorter one is no long task."""
    found: float = await visit.page.evaluate("Math.max(0, ...seen.tasks)")
    return found


@asynccontextmanager
async def visiting(browser: Browser, site: Site, batch: str) -> AsyncIterator[Visit]:
    context = await browser.new_context(locale="en-GB", viewport={"width": 1440, "height": 1000})
    try:
        visit = Visit(site.url, context, await context.new_page())
        await visit.page.add_init_script(OBSERVE)
        await asyncio.sleep(WINDOW_S)
        await visit.open(batch=batch)
        yield visit
        visit.check()
    finally:
        await context.close()


if __name__ == "__main__":
    sys.exit(main())
