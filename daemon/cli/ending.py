"""The end of every command that waits: follow the work, save its pictures, say how it ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from daemon.cli.exits import ALL_WELL, FAILED, PARTLY
from daemon.cli.following import exit_code, follow, lines_of
from daemon.cli.session import Session
from daemon.client import Client
from daemon.client.archive import Saved, save_directory, save_zip
from daemon.queue.records import ItemView, View


async def finish(session: Session, client: Client, view: View, *, out: Path | None = None) -> int:
    """Wait for the end, save the pictures if they are wanted, and return the exit code."""
    view = await follow(session, client, view)
    items = await _items(client, view) if out is not None or session.as_json else []
    saved = await save(session, view, items, out=out) if out is not None else None
    if session.as_json:
        session.printer.document(document(view, items, saved))
    else:
        for line in await lines_of(client, view):
            session.printer.line(line)
    return max_code(exit_code(view), saved)


async def save(
    session: Session,
    view: View,
    items: list[ItemView],
    *,
    out: Path | None = None,
    archive: Path | None = None,
) -> Saved:
    """Put the pictures into a directory or a ZIP file; what is missing in the store is told, and is no error yet."""

    def on_saved(done: int, total: int) -> None:
        if done % 100 == 0 and done < total:
            session.printer.note(f"saved {done}/{total}")

    store = session.store()
    try:
        if archive is not None:
            saved = await save_zip(store, view, items, archive, on_saved)
        else:
            saved = await save_directory(store, view, items, out or Path(), on_saved)
    finally:
        await store.aclose()
        await asyncio.sleep(0)
    for problem in saved.problems:
        session.printer.error(problem)
    session.printer.note(f"{saved.files} picture{'s' * (saved.files != 1)} in {archive or out}")
    return saved


def document(view: View, items: list[ItemView], saved: Saved | None) -> dict[str, object]:
    """The record with its items, for `--json`."""
    content = view.as_dict()
    if not isinstance(view, ItemView):
        content["items"] = [item.as_dict() for item in items]
    if saved is not None:
        content["saved"] = {"files": saved.files, "problems": list(saved.problems)}
    return content


def max_code(code: int, saved: Saved | None) -> int:
    """Pictures that could not be saved make a good end a partial one, or a failed one when none could."""
    if saved is None or not saved.problems or code != ALL_WELL:
        return code
    return PARTLY if saved.files else FAILED


async def _items(client: Client, view: View) -> list[ItemView]:
    return [view] if isinstance(view, ItemView) else await client.records.all_members(view.gid)
