"""Follows a batch or a job on the screen to its end.

On a terminal progress is a bar that stays in place; in a pipe it is a line for each change, at most two a second.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from daemon.cli.output import Printer, extent, group_lines, headline, item_lines, outlook, states
from daemon.cli.session import Session
from pixmill.broker.errors import CONNECTION_FAULTS
from pixmill.client import Client
from pixmill.records.records import GroupView, ItemView, Progress, View
from pixmill.text import visible

LOOK_S = 0.5  # two lines a second at most
EXPLAIN_EVERY = 4  # looks: a job that starts within two seconds needs no reason
MOST_LISTED = 10  # items whose errors are listed


Explain = Callable[[Session, Client, View], Awaitable[str]]
_DIGITS = re.compile(r"\d+")


async def follow(session: Session, client: Client, view: View, explain: Explain | None = None) -> View:
    """Show the work until it has ended or waits for a person; returns its last record.

    `explain` says why a job waits; for a batch its progress events do.
    """
    if view.ended or view.needs_person:
        return view
    try:
        return await _follow(session, client, view, explain)
    except asyncio.CancelledError:
        session.printer.note(
            f"Stopped watching; the work goes on. Come back with: {session.hint('watch', ident_of(view))}"
        )
        raise


async def _follow(session: Session, client: Client, view: View, explain: Explain | None) -> View:
    newest = [await progress_of(client, view)]
    looks, why = 0, ""
    display = display_on(session.printer)
    listener = asyncio.create_task(_listen(client, ident_of(view), newest))
    try:
        while True:
            done, _ = await asyncio.wait([listener], timeout=LOOK_S)
            # The listener waits for a lost Redis; this read may fail meanwhile.
            with suppress(*CONNECTION_FAULTS):
                view = await client.status(ident_of(view)) or view
                looks += 1
                if explain is not None and looks % EXPLAIN_EVERY == 0:
                    why = await explain(session, client, view) if _waits(view) else ""
                display.show(view, newest[0], why)
            if done:
                await listener
            if done or view.ended or view.needs_person:
                return view
    finally:
        display.close()
        # More than once, since a library may swallow a cancellation.
        while not listener.done():
            listener.cancel()
            await asyncio.wait([listener], timeout=LOOK_S)


def _waits(view: View) -> bool:
    """Whether it is a job of which nothing runs."""
    if isinstance(view, GroupView):
        return view.kind == "job" and not view.counts.running and not view.ended
    return view.state != "running" and not view.ended


async def _listen(client: Client, ident: str, newest: list[Progress]) -> None:
    async for event in client.watch(ident, start="now"):
        if event.type == "batch.progress":
            newest[0] = Progress(event.data.get("eta_seconds"), event.data.get("bound"))


async def lines_of(session: Session, client: Client, view: View) -> list[str]:
    """A record in words."""
    if isinstance(view, ItemView):
        return item_lines(view, ident_of(view), session.hint)
    progress, troubled = await progress_of(client, view), await _troubled(client, view)
    return group_lines(view, progress, troubled, session.hint)


async def progress_of(client: Client, view: View) -> Progress:
    """The newest estimate of a batch that has not ended; empty for other work."""
    if isinstance(view, ItemView) or view.kind != "batch" or view.ended:
        return Progress(None, None)
    return await client.records.progress(view)


async def _troubled(client: Client, view: GroupView) -> Sequence[ItemView]:
    """The first items that failed or are held; items are read only if there are any."""
    wanted = min(MOST_LISTED, view.counts.failed + view.counts.held)
    found: list[ItemView] = []
    start, page = 0, 500
    while len(found) < wanted and start < view.counts.total:
        items = await client.records.members(view.gid, start, page)
        found += [item for item in items if item.state in ("failed", "held")]
        start += page
    return found[:wanted]


def ident_of(view: View) -> str:
    """The id by which a person finds it again."""
    return f"{view.batch}/{view.id}" if isinstance(view, ItemView) and view.batch else view.id


def display_on(printer: Printer) -> Lines | Bar:
    """A bar on a terminal, lines elsewhere; with `--json` both go to stderr."""
    stream = sys.stderr if printer.as_json else sys.stdout
    return Bar(stream) if stream.isatty() else Lines(printer)


class Lines:
    """A plain line for each change."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._last = ""

    def show(self, view: View, progress: Progress, why: str = "") -> None:
        # The estimate and the figures move all the time; only a change of the counts or of the reason is worth a line.
        counts = headline(view)
        if (shown := f"{counts} {_DIGITS.sub('', why)}") != self._last:
            self._last = shown
            self._printer.line(f"{counts}{outlook(view, progress)}{f': {why}' if why else ''}")

    def close(self) -> None:
        pass


class Bar:
    """A progress bar with counts, estimate and bound, in place."""

    def __init__(self, stream: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        fixed = Column(no_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}", table_column=fixed),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=fixed.copy()),
            # On a narrow terminal the words are cut, not the figures.
            TextColumn(
                "{task.fields[words]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=Console(file=stream),
            expand=True,
        )
        self._task = self._bar.add_task("", total=1, words="")
        self._bar.start()

    def show(self, view: View, progress: Progress, why: str = "") -> None:
        from rich.markup import escape

        done, total = extent(view)
        # The end is what a narrow terminal lacks.
        ahead = outlook(view, progress).removeprefix("; ")
        words = escape(visible("; ".join(filter(None, (ahead, states(view), why)))))
        self._bar.update(self._task, description=escape(view.id), completed=done, total=total, words=words)

    def close(self) -> None:
        self._bar.stop()
