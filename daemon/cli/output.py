"""Prints results: text or one JSON document on stdout, notes and errors on stderr. Also puts records into words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TextIO

from daemon.accounts.words import reason, sentence, since_s, utc
from daemon.cli.errors import ALL_WELL
from daemon.telemetry.streams import NoReaderError
from limiter.explain import wait_text
from pixmill.contract import FINAL_STATES
from pixmill.records.records import GroupView, ItemView, Progress, View
from pixmill.text import visible, visible_json

Hint = Callable[..., str]

_WORDS = {"retry_wait": "waiting to retry"}


class Printer:
    """The one way to the terminal. Text of others is escaped here: an ESC in it could forge lines or the clipboard.

    With `as_json`, stdout belongs to the one document, and everything else goes to stderr.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def line(self, text: str) -> None:
        """A line of the result."""
        _print(visible(text), sys.stderr if self.as_json else sys.stdout)

    def note(self, text: str) -> None:
        """A line beside the result, which a pipe should not get: a hint or an error, which may have several lines."""
        _print(visible(text, lines=True), sys.stderr)

    def document(self, content: Any) -> None:
        """The one document of `--json`; a program that reads it gets the text as it was."""
        # Where an encoding lacks letters, they are escaped as JSON wants it.
        ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
        _print(visible_json(json.dumps(content, ensure_ascii=ascii_only)), sys.stdout)

    def answer(self, document: Any, *lines: str, note: str = "") -> int:
        """Print a result as JSON or as lines with a note beside them; returns the exit code of success."""
        if self.as_json:
            self.document(document)
            return ALL_WELL
        for line in lines:
            self.line(line)
        if note:
            self.note(note)
        return ALL_WELL

    def table(
        self, document: Any, rows: Sequence[Sequence[str]], header: Sequence[str] = (), *, empty: str = ""
    ) -> int:
        """Print a result as JSON or as aligned columns without a frame; print `empty` if there are no rows."""
        if not rows:
            return self.answer(document, note=empty)
        cells = [header, *rows] if header else rows
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return self.answer(document, *("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells))


def _print(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        raise NoReaderError from None


def extent(view: View) -> tuple[int, int]:
    """How many of how many pictures have ended."""
    return (view.counts.ended, view.counts.total) if isinstance(view, GroupView) else (int(view.ended), 1)


def held_in(view: View) -> int:
    """How many of its items are held, until a person decides."""
    return view.counts.held if isinstance(view, GroupView) else int(view.needs_person)


def states(view: View) -> str:
    """The counts that are not zero, final states first; or the state of the one item."""
    if isinstance(view, ItemView):
        return _item_state(view)
    counts = view.counts.by_state()
    del counts["total"]
    order = sorted(counts, key=lambda state: state not in FINAL_STATES)
    return ", ".join(f"{counts[state]} {_WORDS.get(state, state)}" for state in order if counts[state])


def headline(view: View) -> str:
    """One line: the id, the progress, and the counts of the rest."""
    done, total = extent(view)
    return f"{view.id}: {done}/{total} done" + (f" ({states(view)})" if states(view) else "")


def outlook(view: View, progress: Progress) -> str:
    """The time that is left and the bound, if they are known."""
    if view.ended:
        return ""
    left = f"; about {seconds(progress.eta_s)} left" if progress.eta_s is not None else ""
    return left + (f"; held back by {progress.bound}" if progress.bound else "")


def group_lines(view: GroupView, progress: Progress, troubled: Sequence[ItemView], hint: Hint) -> list[str]:
    """A batch, or a job of several pictures, in a few lines; `hint` spells a command."""
    done, total = extent(view)
    lines = [
        f"{view.kind} {view.id} (tenant {view.tenant}): {view.state}, {done} of {total} done",
        f"  {states(view)}",
    ]
    if ahead := outlook(view, progress):
        lines.append(f"  {ahead.removeprefix('; ')}")
    if view.parts_left:
        lines.append(f"  {view.parts - view.parts_left} of its {view.parts} parts have been read")
    if view.cancel_requested and not view.ended:
        lines.append("  a cancel was requested")
    lines.append(_times(view))
    lines += [f"  note: {warning}" for warning in view.warnings]
    lines += [f"  {item.id} {item.state}: {sentence(item)}" for item in troubled]
    more = view.counts.failed + view.counts.held - len(troubled)
    if troubled and more > 0:
        lines.append(f"  and {more} more")
    if view.needs_person:
        again, end = hint("retry", view.id, "--held"), hint("cancel", view.id)
        lines.append(f"  Held items wait for your decision: `{again}`, or `{end}`.")
    return lines


def item_lines(view: ItemView, ident: str, hint: Hint) -> list[str]:
    """One item in a few lines; `ident` is the id that a command takes, `hint` spells a command."""
    where = f" of batch {view.batch}" if view.batch else ""
    name = view.id if view.job == view.id else f"{view.id} (picture of {view.job})"
    lines = [f"job {name}{where} (tenant {view.tenant}): {_item_state(view)}"]
    if view.error:
        lines.append(f"  {reason(view)}")
    lines.append(
        f"  route {_route(view)}, priority {view.priority}, attempts {view.attempts} of {view.max_attempts}"
    )
    lines.append(_times(view))
    for image in view.images:
        size = f"{image['width']}x{image['height']}, {image['bytes'] / 1000:.0f} kB"
        lines.append(f"  image {image['key']} ({size})")
    if view.needs_person:
        lines.append(
            f"  It is held: look at the error, then `{hint('retry', ident, '--held')}` or `{hint('cancel', ident)}`."
        )
    return lines


def seconds(amount: float) -> str:
    """A duration in words: 8 s, 5 min 10 s, 3 h 20 min."""
    return wait_text(amount) if amount >= 10 else f"{round(amount)} s"


def moment(when: datetime) -> str:
    """A time in UTC, and how long ago that is."""
    return f"{utc(when)} ({seconds(max(0, since_s(when)))} ago)"


def _route(view: ItemView) -> str:
    return view.route if view.made_by == view.route else f"{view.made_by} instead of {view.route}"


def _times(view: View) -> str:
    accepted = f"  accepted {moment(view.accepted_at)}"
    if view.finished_at is None:
        return accepted
    return f"{accepted}, ended after {seconds((view.finished_at - view.accepted_at).total_seconds())}"


def _item_state(view: ItemView) -> str:
    state = _WORDS.get(view.state, view.state)
    if view.ended:
        return state
    if view.due_at is not None:
        state += f", due in {seconds(max(0, -since_s(view.due_at)))}"
    return f"{state}, stop requested" if view.cancel_requested else state
