"""Draws the plot of the README from the results: SVG and PNG, for light and for dark pages.

matplotlib is of the dependency group `plot`, which only `make today-plot` installs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.today.figures import Row
from benchmarks.today.terms import ACCOUNTS

WIDTH_IN, PANEL_IN, HEAD_IN, FOOT_IN = 6.4, 2.3, 0.45, 0.5
BARS_FROM, BARS_TO = 0.27, 0.66  # of the width
COLUMNS = ((0.745, "429s"), (0.845, "paid calls\na picture*"), (0.945, "pictures\nlost*"))
MOST_TIMES = 5.0  # a longer bar is cut


@dataclass(frozen=True)
class Look:
    """The colours of a page. Blue and grey differ in lightness too, so nobody needs to see hues."""

    name: str
    page: str
    text: str
    faint: str
    pixmill: str
    others: str


LOOKS = (
    Look("light", "#ffffff", "#1f2328", "#59636e", "#0550ae", "#8c959f"),
    Look("dark", "#0d1117", "#f0f6fc", "#9198a1", "#79c0ff", "#6e7681"),
)


def digest(rows: Sequence[Row]) -> str:
    """A short name for all that the plot shows."""
    shown = [[row.account, *_texts(row)] for row in rows]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `today-LOOK.svg` and `.png`; the digest of the figures is in each file's description."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams.update({"svg.hashsalt": "today", "font.family": "DejaVu Sans", "font.size": 8})
    about = f"figures {digest(rows)}"
    paths = []
    for look in LOOKS:
        figure = _figure(rows, look)
        for suffix, facts in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            path = folder / f"today-{look.name}.{suffix}"
            figure.savefig(path, dpi=200, facecolor=look.page, metadata={**facts, "Description": about})
            paths.append(path)
    return paths


def _figure(rows: Sequence[Row], look: Look) -> Any:
    from matplotlib.figure import Figure

    panels = [[row for row in rows if row.account == terms.name] for terms in ACCOUNTS]
    height_in = HEAD_IN + FOOT_IN + PANEL_IN * len(panels)
    figure = Figure(figsize=(WIDTH_IN, height_in))
    top = 1 - HEAD_IN / height_in
    figure.text(
        0.015, 1 - 0.2 / height_in, "100 pictures: time as a multiple of the least possible",
        color=look.text, weight="bold", size=9.5, va="center",
    )  # fmt: skip
    for at, name in COLUMNS:
        figure.text(at, 1 - 0.45 / height_in, name, color=look.faint, size=7.5, ha="center", va="center")
    for number, (terms, panel) in enumerate(zip(ACCOUNTS, panels, strict=True)):
        begin = top - (number + 1) * PANEL_IN / height_in
        figure.text(
            0.015, begin + (PANEL_IN - 0.2) / height_in, terms.short, color=look.text, size=8.5, weight="bold",
            va="center",
        )  # fmt: skip
        axes = figure.add_axes((BARS_FROM, begin, BARS_TO - BARS_FROM, (PANEL_IN - 0.35) / height_in))
        _bars(figure, axes, panel, look)
    figure.text(
        0.015, 0.22 / height_in,
        "Medians. Dashed: no sender can be faster.\n* On a bad day: a process is killed half-way.",
        color=look.faint, size=7.5, va="center",
    )  # fmt: skip
    return figure


def _bars(figure: Any, axes: Any, rows: Sequence[Row], look: Look) -> None:
    axes.set_xlim(0, MOST_TIMES * 1.12)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axis("off")
    axes.axvline(1, color=look.faint, linewidth=0.8, linestyle=(0, (3, 3)))
    to_figure = axes.transData + figure.transFigure.inverted()
    for place, row in enumerate(rows):
        is_ours = row.strategy.startswith("pixmill")
        weight, colour = ("bold", look.pixmill) if is_ours else ("normal", look.others)
        times, *others = _texts(row)
        shown = min(row.times_optimum, MOST_TIMES)
        axes.barh(place, shown, height=0.68, color=colour)
        y = to_figure.transform((0, place))[1]
        figure.text(BARS_FROM - 0.01, y, row.title, color=look.text, weight=weight, ha="right", va="center")
        axes.text(shown + 0.07, place, times, color=look.text, weight=weight, va="center")
        for (at, _), text in zip(COLUMNS, others, strict=True):
            figure.text(at, y, text, color=look.text, weight=weight, ha="center", va="center")


def _texts(row: Row) -> tuple[str, ...]:
    """The figures at a bar: times the optimum, 429s, paid calls a picture, pictures lost."""
    return (
        f"{row.times_optimum:.2f}×",
        f"{row.refused:,.0f}",
        f"{row.bad_paid_a_picture:.2f}",
        f"{row.bad_lost:.0f}",
    )
