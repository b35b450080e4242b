"""The rows of the benchmark: medians over its batches, and tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.today.outcome import Outcome
from benchmarks.today.strategies import STRATEGIES


@dataclass(frozen=True)
class Row:
    """One strategy on one account. Medians; the bad day is the one with a crash and lost replies."""

    account: str
    strategy: str
    title: str
    clock: str  # virtual; small: virtual, but at the scale of the real batches; or real
    batches: int
    optimum_s: float
    makespan_s: float
    times_optimum: float
    least: float  # of times_optimum
    most: float
    in_order: float  # times the optimum that a sender takes who loses no moment, in the order of the list
    refused: float
    paid_a_picture: float
    lost: float
    bad_times_optimum: float
    bad_refused: float
    bad_lost: float
    bad_paid_a_picture: float


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """One row for each clock, account and strategy, in the order of their first outcomes."""
    names = dict.fromkeys((one.clock, one.account, one.strategy) for one in outcomes)
    return [
        _row([one for one in outcomes if (one.clock, one.account, one.strategy) == name]) for name in names
    ]


def _row(outcomes: Sequence[Outcome]) -> Row:
    quiet = [one for one in outcomes if not one.bad_day]
    bad = [one for one in outcomes if one.bad_day]
    first = outcomes[0]
    times = [one.times_optimum for one in quiet]
    return Row(
        account=first.account,
        strategy=first.strategy,
        title=STRATEGIES[first.strategy].title,
        clock=first.clock,
        batches=len(quiet),
        optimum_s=_median(one.optimum_s for one in quiet),
        makespan_s=_median(one.makespan_s for one in quiet),
        times_optimum=_median(times),
        least=round(min(times), 4),
        most=round(max(times), 4),
        in_order=_median(one.in_order_s / one.optimum_s for one in quiet),
        refused=_median(one.refused for one in quiet),
        paid_a_picture=_median(one.paid_a_picture for one in quiet),
        lost=_median(one.lost for one in quiet),
        bad_times_optimum=_median(one.times_optimum for one in bad),
        bad_refused=_median(one.refused for one in bad),
        bad_lost=_median(one.lost for one in bad),
        bad_paid_a_picture=_median(one.paid_a_picture for one in bad),
    )


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)


HEAD = ("", "× optimum", "least to most", "429s", "lost on a bad day", "paid calls a picture then")


def cells(row: Row) -> tuple[str, ...]:
    """The figures of a row as text, under HEAD."""
    return (
        row.title,
        f"{row.times_optimum:.2f}",
        f"{row.least:.2f} to {row.most:.2f}",
        f"{row.refused:,.0f}",
        f"{row.bad_lost:.0f}",
        f"{row.bad_paid_a_picture:.2f}",
    )


COMPARED_HEAD = (
    "",
    "× optimum: virtual",
    "real",
    "difference",
    "429s: virtual",
    "real",
    "lost: virtual",
    "real",
)


def compared(virtual: Row, real: Row) -> tuple[str, ...]:
    """A row of the same batches in virtual and in real time, under COMPARED_HEAD."""
    return (
        real.title,
        f"{virtual.times_optimum:.2f}",
        f"{real.times_optimum:.2f} ({real.least:.2f} to {real.most:.2f})",
        f"{real.times_optimum / virtual.times_optimum - 1:+.0%}",
        f"{virtual.refused:,.0f}",
        f"{real.refused:,.0f}",
        f"{virtual.bad_lost:.0f}",
        f"{real.bad_lost:.0f}",
    )


def pairs(summary: Sequence[Row], account: str) -> list[tuple[str, ...]]:
    """The strategies of an account that ran in real time, each beside the same batches in virtual time."""
    of_account = [row for row in summary if row.account == account]
    small = {row.strategy: row for row in of_account if row.clock == "small"}
    return [compared(small[row.strategy], row) for row in of_account if row.clock == "real"]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns of text, as Markdown that is also easy to read in a terminal."""
    body = [tuple(head), *map(tuple, lines)]
    widths = [max(len(line[column]) for line in body) for column in range(len(head))]
    text = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in body
    ]
    rule = (
        "|"
        + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths))
        + "|"
    )
    return "\n".join([text[0], rule, *text[1:]])
