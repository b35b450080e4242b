"""The end of every command that waits: follow the work, save its pictures, and turn its end into an exit code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.errors import ALL_WELL, CANCELLED, FAILED, PARTLY
from daemon.cli.following import Explain, follow, lines_of
from daemon.cli.session import Session
from pixmill.client import Client
from pixmill.records.records import GroupView, ItemView, View

if TYPE_CHECKING:
    from daemon.files.archive import Saved

_CODES = {
    "completed_with_errors": PARTLY,
    "failed": FAILED,
    "expired": FAILED,
    "held": FAILED,
    "cancelled": CANCELLED,
}


def exit_code(view: View, saved: Saved | None = None) -> int:
    """The exit code for a state; work that has not ended counts as good.

    Pictures that could not be saved make a good end a partial one, or a failed one when none could.
    """
    if isinstance(view, GroupView) and view.needs_person:
        return PARTLY if view.counts.succeeded else FAILED
    code = _CODES.get(view.state, ALL_WELL)
    if code == ALL_WELL and saved is not None and saved.problems:
        return PARTLY if saved.files else FAILED
    return code


def ready(out: Path | None) -> None:
    """Raise OSError now, not after the work, if the pictures could not be saved there."""
    if out is not None:
        from daemon.files.archive import make_directory

        make_directory(out)


async def finish(
    session: Session, client: Client, ident: str, *, explain: Explain, out: Path | None = None
) -> int:
    """Wait for the end, save the pictures if they are wanted, and return the exit code."""
    ready(out)
    view = await follow(session, client, await session.find(client, ident), explain)
    items = await client.items_of(view) if out is not None or session.as_json else []
    saved = await save(session, view, items, out=out) if out is not None else None
    lines = [] if session.as_json else await lines_of(session, client, view)
    session.printer.answer(document(view, items, saved), *lines)
    return exit_code(view, saved)


async def save(
    session: Session,
    view: View,
    items: list[ItemView],
    *,
    out: Path | None = None,
    archive: Path | None = None,
) -> Saved:
    """Put the pictures into a directory or a ZIP file; pictures that the store lacks are reported on stderr."""
    from daemon.files.archive import save_directory, save_zip

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
        session.printer.note(problem)
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
