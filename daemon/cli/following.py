"""Waits for a batch or a job on the screen, and says how it ended: the exit code follows from the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from daemon.broker.errors import CONNECTION_FAULTS
from daemon.cli import output
from daemon.cli.exits import ALL_WELL, CANCELLED, FAILED, PARTLY
from daemon.cli.session import Session
from daemon.client import Client
from daemon.queue.records import GroupView, ItemView, Progress, View

LOOK_S = 0.5  # two lines a second at most
MOST_TOLD = 10  # items whose errors are listed

_BATCH_CODES = {
    "completed": ALL_WELL,
    "completed_with_errors": PARTLY,
    "cancelled": CANCELLED,
    "running": ALL_WELL,
}
_ITEM_CODES = {"failed": FAILED, "expired": FAILED, "held": FAILED, "cancelled": CANCELLED}


def exit_code(view: View) -> int:
    """What the state means for a script; what has not ended yet is well."""
    if isinstance(view, ItemView):
        return _ITEM_CODES.get(view.state, ALL_WELL)
    if view.needs_person:
        return PARTLY if view.counts.succeeded else FAILED
    return _BATCH_CODES.get(view.state, FAILED)


async def follow(session: Session, client: Client, view: View) -> View:
    """Show the work until it has ended, or until only people can go on; returns the record as it is then."""
    if view.ended or view.needs_person:
        return view
    ident = ident_of(view)
    try:
        return await _follow(session, client, view, ident)
    except asyncio.CancelledError:
        session.printer.note(f"Stopped watching; the work goes on. Come back with: pixmill watch {ident}")
        raise


async def _follow(session: Session, client: Client, view: View, ident: str) -> View:
    told = [await _progress(client, view)]
    display = output.display(session.printer, as_json=session.as_json)
    listener = asyncio.create_task(_listen(client, ident, told))
    try:
        while True:
            done, _ = await asyncio.wait([listener], timeout=LOOK_S)
            # The listener waits for a lost Redis; this look may fail meanwhile.
            with suppress(*CONNECTION_FAULTS):
                view = await client.status(ident) or view
                display.show(view, told[0])
            if done:
                await listener
            if done or view.ended or view.needs_person:
                return view
    finally:
        display.close()
        # More than once: Python 3.11's wait_for can swallow a cancellation (python/cpython#86296).
        while not listener.done():
            listener.cancel()
            await asyncio.wait([listener], timeout=LOOK_S)


async def _listen(client: Client, ident: str, told: list[Progress]) -> None:
    async for event in client.watch(ident, start="now"):
        if event.type == "batch.progress":
            told[0] = Progress(event.data.get("eta_seconds"), event.data.get("bound"))


async def lines_of(client: Client, view: View) -> list[str]:
    """A record in words."""
    if isinstance(view, ItemView):
        return output.item_lines(view)
    return output.group_lines(view, await _progress(client, view), await _troubled(client, view))


async def _progress(client: Client, view: View) -> Progress:
    if isinstance(view, ItemView) or view.kind != "batch" or view.ended:
        return Progress(None, None)
    return await client.records.progress(view)


async def _troubled(client: Client, view: GroupView) -> Sequence[ItemView]:
    """The first items that failed or are held; a batch without any is not read."""
    wanted = min(MOST_TOLD, view.counts.failed + view.counts.held)
    found: list[ItemView] = []
    start, page = 0, 500
    while len(found) < wanted and start < view.counts.total:
        items = await client.records.members(view.gid, start, page)
        found += [item for item in items if item.state in ("failed", "held")]
        start += page
    return found[:wanted]


def ident_of(view: View) -> str:
    """The id by which a person finds it again."""
    if isinstance(view, ItemView) and view.batch:
        return f"{view.batch}/{view.id}"
    return view.id
