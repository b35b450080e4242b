"""What commands print: text or one JSON document on stdout, notes and errors on stderr, and progress.

On a terminal progress is a bar that stays in place; in a pipe it is a line for each change, at most two a second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from daemon.queue.records import GroupView, ItemView, Progress, View

_ENDED = ("succeeded", "failed", "cancelled", "expired")
_OPEN = ("running", "queued", "throttled", "retry_wait", "held")
_NAMES = {"retry_wait": "waiting to retry", "throttled": "throttled"}


class Printer:
    """With `as_json`, stdout belongs to the one document, and everything else goes to stderr."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def line(self, text: str) -> None:
        """Something that was asked for."""
        print(text, file=sys.stderr if self._as_json else sys.stdout, flush=True)

    def note(self, text: str) -> None:
        """Something beside it, that a pipe should not get."""
        print(text, file=sys.stderr, flush=True)

    error = note

    def document(self, content: Any) -> None:
        """The one document of `--json`."""
        print(json.dumps(content, ensure_ascii=False), flush=True)

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns, without a frame: easy to read, and easy to cut."""
        lines = [list(row) for row in rows]
        if not lines:
            return
        widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
        for row in lines:
            self.line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


class Display(Protocol):
    """Shows how far the work is."""

    def show(self, view: View, progress: Progress) -> None: ...

    def close(self) -> None: ...


def display(printer: Printer, *, as_json: bool) -> Display:
    """A bar where a person looks, lines elsewhere; with `--json` both on stderr."""
    stream = sys.stderr if as_json else sys.stdout
    return Bar(stream) if stream.isatty() else Lines(printer)


class Lines:
    """A plain line for each change."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._last = ""

    def show(self, view: View, progress: Progress) -> None:
        # The estimate alone moves all the time; only what happened is worth a line.
        if (what := headline(view)) != self._last:
            self._last = what
            self._printer.line(f"{what}{outlook(view, progress)}")

    def close(self) -> None:
        pass


class Bar:
    """A progress bar with counts, estimate and bound, in place."""

    def __init__(self, stream: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._bar = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            # The words give way on a narrow terminal, not the figures.
            TextColumn(
                "{task.fields[said]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=Console(file=stream),
            expand=True,
        )
        self._task = self._bar.add_task("", total=1, said="")
        self._bar.start()

    def show(self, view: View, progress: Progress) -> None:
        from rich.markup import escape

        done, total = extent(view)
        said = escape(f"{states(view)}{outlook(view, progress)}")
        self._bar.update(self._task, description=escape(view.id), completed=done, total=total, said=said)

    def close(self) -> None:
        self._bar.stop()


def extent(view: View) -> tuple[int, int]:
    """How many of how many pictures have ended."""
    counts = getattr(view, "counts", None)
    return (counts.ended, counts.total) if counts is not None else (int(view.ended), 1)


def states(view: View) -> str:
    """The counts that are not zero, or the state of the one item."""
    counts = getattr(view, "counts", None)
    if counts is None:
        return _item_state(view)
    by_state = counts.by_state()
    told = [f"{by_state[name]} {_NAMES.get(name, name)}" for name in (*_ENDED, *_OPEN) if by_state[name]]
    return ", ".join(told)


def headline(view: View) -> str:
    """One line: who, how far, and what the rest is doing."""
    done, total = extent(view)
    return f"{view.id}: {done}/{total} done" + (f" ({states(view)})" if states(view) else "")


def outlook(view: View, progress: Progress) -> str:
    """How long it will take and what holds it back, as far as that is known."""
    if view.ended:
        return ""
    told = ""
    if progress.eta_s is not None:
        told += f"; about {seconds(progress.eta_s)} left"
    if progress.bound:
        told += f"; held back by {progress.bound}"
    return told


def group_lines(view: GroupView, progress: Progress, troubled: Sequence[ItemView]) -> list[str]:
    """A batch, or a job of several pictures, in a few lines."""
    done, total = extent(view)
    lines = [
        f"{view.kind} {view.id} (tenant {view.tenant}): {view.state}, {done} of {total} done",
        f"  {states(view)}",
    ]
    if told := outlook(view, progress):
        lines.append(f"  {told.removeprefix('; ')}")
    if view.parts_left:
        lines.append(f"  {view.parts - view.parts_left} of its {view.parts} parts have been read")
    if view.cancel_requested and not view.ended:
        lines.append("  it was asked to be cancelled")
    lines.append(f"  accepted {moment(view.accepted_at)}{_ended_text(view)}")
    lines += [f"  note: {warning}" for warning in view.warnings]
    lines += [f"  {item.id} {item.state}: {sentence(item)}" for item in troubled]
    more = view.counts.failed + view.counts.held - len(troubled)
    if troubled and more > 0:
        lines.append(f"  and {more} more")
    if view.needs_person:
        lines.append(
            f"  What is held waits for you: `pixmill retry {view.id} --held`, or `pixmill cancel {view.id}`."
        )
    return lines


def item_lines(view: ItemView) -> list[str]:
    """One item in a few lines."""
    where = f" of batch {view.batch}" if view.batch else ""
    name = view.id if view.job == view.id else f"{view.id} (picture of {view.job})"
    lines = [f"job {name}{where} (tenant {view.tenant}): {_item_state(view)}"]
    if view.error:
        lines.append(f"  {sentence(view)}")
    lines.append(
        f"  route {view.route}, priority {view.priority}, attempts {view.attempts} of {view.max_attempts}"
    )
    lines.append(f"  accepted {moment(view.accepted_at)}{_ended_text(view)}")
    for image in view.images:
        size = f"{image['width']}x{image['height']}, {image['bytes'] / 1000:.0f} kB"
        lines.append(f"  image {image['key']} ({size})")
    if view.needs_person:
        lines.append(
            "  It is held: look at the error, then `pixmill retry ID --held` or `pixmill cancel ID`."
        )
    return lines


def sentence(item: ItemView) -> str:
    """Why an item is where it is, with what it cost."""
    error = item.error or {}
    facts = [
        str(error[name]) if name != "http_status" else f"HTTP {error[name]}"
        for name in ("kind", "provider_code", "http_status")
        if error.get(name) is not None
    ]
    if error.get("charged"):
        facts.append(f"charged: {error['charged']}")
    message = str(error.get("message") or "no reason is on record")
    return f"{message} ({', '.join(facts)})" if facts else message


def seconds(amount: float) -> str:
    """A time as people say it: 8 s, 5 min 10 s, 3 h 20 min."""
    whole = round(amount)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def moment(when: datetime) -> str:
    """A time in UTC, and how long ago that is."""
    ago = (datetime.now(UTC) - when).total_seconds()
    return f"{when:%Y-%m-%d %H:%M:%S}Z ({seconds(max(0, ago))} ago)"


def _ended_text(view: View) -> str:
    if view.finished_at is None:
        return ""
    return f", ended after {seconds((view.finished_at - view.accepted_at).total_seconds())}"


def _item_state(view: Any) -> str:
    state = str(_NAMES.get(view.state, view.state))
    if view.due_at is not None and not view.ended:
        wait = (view.due_at - datetime.now(UTC)).total_seconds()
        state += f", due in {seconds(max(0, wait))}"
    return f"{state}, asked to stop" if view.cancel_requested and not view.ended else state
