"""Runs the demo: a CSV file as one batch on `up`, with an embedded Valkey and the simulator as the provider.

Everything is in a fresh directory, so a run depends neither on other runs nor on the installation around it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from daemon.broker.embedded import EmbeddedRedis
from daemon.demo.contact_sheet import Tile, contact_sheet
from daemon.demo.provider import DemoError, simulated_provider
from daemon.demo.summary import Books, Failure, Summary
from daemon.files.archive import make_directory, pictures_of, save_directory, write_whole
from daemon.files.batch_file import read_batch_file
from daemon.service import DATA_DIR, SIMULATOR_ENVIRON, Running, simulated, up
from daemon.settings import Listen, Settings
from daemon.storage.object_store import ResultStore
from limiter.quota.quota import parse_quota
from pixmill.client import Client
from pixmill.records.records import GroupView, ItemView, Progress, View
from providers.simulator.settings import Rate, SimulatorSettings

BATCH: Final = "demo"
PRODUCTS: Final = Path(__file__).with_name("products.csv")
TEMPLATE: Final = "{color} {material} {title}, studio product photo"
SHEET: Final = "contact-sheet.png"
LEDGER: Final = "ledger.json"
LOOK_S: Final = 0.5
ACCEPT_S: Final = 30.0

Show = Callable[[View, Progress], None]
Front = Callable[[Running], AbstractAsyncContextManager[object]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """The products and the provider. The rate binds, not the latency: 41 rows at 12 per 6 s take 18 s and one call."""

    products: Path = PRODUCTS
    images: Rate = field(default_factory=lambda: Rate(12, 6.0))
    in_flight: int = 8
    latency_s: tuple[float, float] = (0.6, 1.4)

    @property
    def provider_options(self) -> tuple[str, ...]:
        """The command line of the provider, which enforces the quota and knows nothing of the sender."""
        latency = "-".join(f"{bound_s:g}" for bound_s in self.latency_s)
        return "--images", str(self.images), "--in-flight", str(self.in_flight), "--latency", latency

    @property
    def quota(self) -> dict[str, object]:
        """The same limits, as the sender has them configured."""
        return {"images": str(self.images), "in_flight": self.in_flight}

    def items(self) -> list[dict[str, Any]]:
        """The batch that the CSV file makes; raises BatchFileError."""
        return read_batch_file(self.products, prompt_template=TEMPLATE).items

    def moderated(self) -> frozenset[str]:
        """The ids of the rows that the provider will refuse."""
        words = SimulatorSettings().moderation_words
        return frozenset(
            item["id"] for item in self.items() if any(word in item["prompt"].lower() for word in words)
        )

    def outlook(self) -> str:
        """An announcement of the run in two lines."""
        refused = ", ".join(sorted(self.moderated())) or "no row"
        return (
            f"{len(self.items())} products of {self.products.name} become pictures at a simulated provider that "
            f"allows {self.images.count} per {self.images.window_s:g} s, {self.in_flight} at a time, and answers "
            f"429 to more.\nIts moderation refuses {refused}, which should fail alone; every other row should get "
            "exactly one picture."
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The result, and where things are; `kept` is the directory of Redis, store and the provider's ledger if kept."""

    summary: Summary
    out: Path
    kept: Path | None

    @property
    def sheet(self) -> Path:
        return self.out / SHEET


def _nothing(_: object) -> None:
    pass


async def _no_more(_report: Report) -> None:
    pass


async def run_demo(
    out: Path,
    *,
    scenario: Scenario | None = None,
    keep: bool = False,
    show: Show = lambda _view, _progress: None,
    front: Front | None = None,
    finish: Callable[[Report], Awaitable[None]] = _no_more,
    on_server: Callable[[EmbeddedRedis], None] = _nothing,
) -> Report:
    """Run the batch and put its pictures, a manifest, the contact sheet and the CSV file into `out`.

    `show` is called with the progress twice a second. `front` serves beside the run, and all of it lasts until
    `finish` returns. `on_server` gets the Valkey as soon as it runs. Raises DemoError, StorageError,
    EmbeddedRedisError, OSError.
    """
    await asyncio.to_thread(make_directory, out)
    scenario = scenario or Scenario()
    items = scenario.items()
    async with _place(keep) as place, simulated_provider(scenario.provider_options) as provider:
        settings = simulated(_settings(place), provider.base_url, scenario.quota)
        async with (
            up(
                settings, data_dir=place / DATA_DIR, environ=SIMULATOR_ENVIRON, on_server=on_server
            ) as running,
            front(running) if front is not None else nullcontext(),
            Client.connect(running.redis_url, settings.redis.prefix) as client,
        ):
            makespan_s = await _to_its_end(client, items, show)
            view = await _record(client)
            ended = await client.items(BATCH)
            ledger = await provider.ledger()
            summary = _summary(scenario, ledger, ended, makespan_s)
            await _save(settings, view, ended, summary, out)
            await asyncio.to_thread(shutil.copyfile, scenario.products, out / scenario.products.name)
            if keep:
                await asyncio.to_thread((place / LEDGER).write_text, json.dumps(ledger, indent=2))
            report = Report(summary, out, place if keep else None)
            await finish(report)
    return report


@asynccontextmanager
async def _place(keep: bool) -> AsyncIterator[Path]:
    place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="pixmill-demo-"))
    try:
        yield place
    finally:
        if not keep:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


def _settings(place: Path) -> Settings:
    """The defaults, below `place`: the demo ignores the configuration of the installation around it."""
    # `pixmill up` would use the same layout in that directory, so it finds a kept demo.
    store = quote(str(place / DATA_DIR / "images"))
    return Settings.model_validate(
        {"storage": {"url": f"file://{store}"}, "metrics": {"listen": Listen("127.0.0.1:0")}}
    )


async def _to_its_end(client: Client, items: Sequence[dict[str, Any]], show: Show) -> float:
    """Send the batch and wait until it has ended; returns the seconds that this took."""
    began = time.monotonic()
    await client.submit_batch({"id": BATCH}, items, wait_accepted_s=ACCEPT_S)
    shower = asyncio.create_task(_keep_showing(client, show))
    try:
        async for _ in client.watch(BATCH):
            pass
    finally:
        took_s = time.monotonic() - began
        shower.cancel()
        await asyncio.wait([shower])
    show(await _record(client), Progress(None, None))
    return took_s


async def _keep_showing(client: Client, show: Show) -> None:
    while True:
        view = await _record(client)
        show(view, await client.records.progress(view))
        await asyncio.sleep(LOOK_S)


async def _record(client: Client) -> GroupView:
    view = await client.status(BATCH)
    if not isinstance(view, GroupView):
        raise DemoError("The record of the batch is missing; the log of the run has more.")
    return view


def _summary(
    scenario: Scenario, ledger: Mapping[str, Any], items: Sequence[ItemView], makespan_s: float
) -> Summary:
    return Summary(
        pictures=sum(len(item.images) for item in items),
        failures=tuple(Failure.of(item) for item in items if item.state != "succeeded"),
        expected_failures=scenario.moderated(),
        makespan_s=makespan_s,
        quota=parse_quota("demo", scenario.quota),
        books=Books.of(ledger, scenario.images.window_s),
    )


async def _save(
    settings: Settings, view: GroupView, items: Sequence[ItemView], summary: Summary, out: Path
) -> None:
    """The pictures with their manifest, and the contact sheet."""
    store = ResultStore.open(settings.storage.url.reveal())
    try:
        saved = await save_directory(store, view, items, out, lambda _done, _total: None)
    finally:
        await store.aclose()
    if saved.problems:
        raise DemoError("\n".join(saved.problems))
    await asyncio.to_thread(_write_sheet, items, summary, out)


def _write_sheet(items: Sequence[ItemView], summary: Summary, out: Path) -> None:
    files = {picture.item.id: out / picture.file for picture in pictures_of(items)}
    reasons = {failure.id: failure.message for failure in summary.failures}
    tiles = [
        Tile(
            item.id,
            _title(item),
            files[item.id].read_bytes() if item.id in files else None,
            reasons.get(item.id, ""),
        )
        for item in items
    ]
    sheet = contact_sheet(tiles, title=f"{len(items)} products, one batch", line=summary.headline())
    write_whole(out / SHEET, sheet)


def _title(item: ItemView) -> str:
    """The part of the prompt that is about this row."""
    text = str(item.spec.get("prompt", "")).partition(",")[0]
    return text[:1].upper() + text[1:]
