"""Writes what both READMEs and docs/measured/today.md show of the results: the plot, its two sentences, the tables.

Run it as ``python -m benchmarks.today.pages`` after a run whose results are to be shown (`make today-plot`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.today.figures import COMPARED_HEAD, HEAD, Row, cells, pairs, table
from benchmarks.today.plot import draw
from benchmarks.today.terms import ACCOUNTS, SCALE, SMALL
from benchmarks.venvs import BENCHMARKS

RESULTS = BENCHMARKS / "results" / "today.json"
PAGE = ROOT / "docs" / "measured" / "today.md"
QUICK = 2.0  # times the optimum
BUSY = 1.0  # the load above which no time of processes is compared
BEGIN, END = "<!-- today: written by `make today-plot` -->", "<!-- today: end -->"


@dataclass(frozen=True)
class Words:
    """The words of a README about the results, in its language."""

    path: Path
    alternative: str
    text: str
    to: str
    refused: str
    never_refused: str
    width: int


ENGLISH = Words(
    path=ROOT / "README.md",
    alternative="How long 100 pictures take by hand and with Pixmill, with 429s, paid calls and lost pictures",
    text=(
        "100 pictures on an account of 20 a minute, 4 at a time: on one replica or on four, Pixmill is {ours_refused} "
        "and takes {ours_times} times the least time possible ({in_order:.2f} is all that the order of the list "
        "allows), while what people write by hand takes {others_times} times, and the quick ones are {quick_refused}. "
        "If a process dies half-way, they lose {others_lost} pictures, and Pixmill {ours_lost}: "
        "[docs/measured/today.md](docs/measured/today.md)."
    ),
    to=" to ",
    refused="refused {} times",
    never_refused="never refused",
    width=118,
)
CHINESE = Words(
    path=ROOT / "README.zh.md",
    alternative="生成 100 张图片的用时：手写做法与 Pixmill 对比，以及 429、付费调用和丢失的图片",
    text=(
        "账户限额为每分钟 20 张、同时 4 张，要生成 100 张图片：无论用一个副本还是四个，"
        "Pixmill {ours_refused}，用时是理论下限的 {ours_times} 倍"
        "（按清单顺序发送，最好也只能做到 {in_order:.2f} 倍）；"
        "常见的手写做法要 {others_times} 倍，其中较快的几种{quick_refused}。"
        "如果进程中途崩溃，手写做法会丢 {others_lost} 张图，Pixmill 丢 {ours_lost} 张："
        "[docs/measured/today.md](docs/measured/today.md)。"
    ),
    to=" 到 ",
    refused="被拒 {} 次",
    never_refused="从未被拒",
    width=1_000,  # a line break inside a Chinese sentence shows as a blank
)


def main() -> None:
    document = json.loads(RESULTS.read_text())
    rows = rows_of(document)
    for path in draw(shown(rows), ROOT / "docs" / "pictures"):
        print(path.relative_to(ROOT))
    blocks = {words.path: readme(rows, words) for words in (ENGLISH, CHINESE)}
    blocks[PAGE] = page(rows, document["environment"])
    for path, text in blocks.items():
        path.write_text(with_block(path.read_text("utf-8"), text), "utf-8")


def rows_of(document: dict[str, Any]) -> list[Row]:
    """The rows of a file of results."""
    return [Row(**row) for row in document["summary"]]


def shown(rows: Sequence[Row]) -> list[Row]:
    """The rows of the plot."""
    return [row for row in rows if row.clock == "virtual"]


def with_block(text: str, block: str) -> str:
    """`text` with a new block between the marks."""
    new, count = re.subn(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n{block.strip()}\n{END}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"the page needs the marks {BEGIN} and {END} once")
    return new


def readme(rows: Sequence[Row], words: Words) -> str:
    """The plot and two sentences."""
    window = [row for row in shown(rows) if row.account == "window"]
    ours = [row for row in window if row.strategy.startswith("pixmill")]
    others = [row for row in window if row not in ours]
    quick = [row for row in others if row.times_optimum < QUICK]
    text = words.text.format(
        ours_refused=_refused(ours, words),
        ours_times=_span(ours, "times_optimum", ".2f", words),
        in_order=window[0].in_order,
        others_times=_span(others, "times_optimum", ".2f", words),
        quick_refused=_refused(quick, words),
        others_lost=_span(others, "bad_lost", ".0f", words),
        ours_lost=_span(ours, "bad_lost", ".0f", words),
    )
    return f"""
<picture>
  <source media="(prefers-color-scheme: dark)" srcset="docs/pictures/today-dark.svg">
  <img alt="{words.alternative}" src="docs/pictures/today-light.svg" width="640">
</picture>

{fill(text, words.width, break_long_words=False, break_on_hyphens=False)}
"""


def page(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    """The tables of docs/measured/today.md."""
    parts = []
    for terms in ACCOUNTS:
        of_account = [row for row in rows if row.account == terms.name]
        main = [row for row in of_account if row.clock == "virtual"]
        parts.append(
            f"**{terms.title}.** No sender needs less than {main[0].optimum_s:.0f} s, the median of "
            f"{main[0].batches} batches. One that starts each call of the list at the first moment that the account "
            f"allows takes {main[0].in_order:.2f} times that.\n\n{table(HEAD, map(cells, main))}"
        )
    repeats = [row.batches for row in rows if row.clock == "real"]
    load = environment["load_average"][0]
    if repeats and load > BUSY:
        parts.append(
            f"The machine was busy (load {load:.1f} at the start), so batches in real time are not compared."
        )
    elif repeats:
        parts.append(
            f"**In real time**: {SMALL} pictures, all times divided by {SCALE:g}; medians of {max(repeats)} batches "
            f"({environment['server']}, Python {environment['python']}, {environment['cpus']} cores, load {load:.1f} "
            "at the start). Beside them the same batches in virtual time."
        )
        parts += [f"{terms.short}:\n\n{table(COMPARED_HEAD, pairs(rows, terms.name))}" for terms in ACCOUNTS]
    return "\n\n".join(parts)


def _span(rows: Sequence[Row], name: str, form: str, words: Words) -> str:
    values = [getattr(row, name) for row in rows]
    least, most = (format(value, form) for value in (min(values), max(values)))
    return least if least == most else f"{least}{words.to}{most}"


def _refused(rows: Sequence[Row], words: Words) -> str:
    span = _span(rows, "refused", ",.0f", words)
    return words.never_refused if span == "0" else words.refused.format(span)


if __name__ == "__main__":
    main()
