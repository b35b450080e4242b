"""The figures of a benchmark: each with the bound that it must reach, alone and over several runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number of a run. Without a bound it is there to be read."""

    name: str
    value: float | None  # None: there was nothing to measure it on, which reaches no bound
    at_most: float | None = None
    at_least: float | None = None
    digits: int = 0

    @property
    def reached(self) -> bool:
        if self.at_most is None and self.at_least is None:
            return True
        return (
            self.value is not None
            and (self.at_most is None or self.value <= self.at_most)
            and (self.at_least is None or self.value >= self.at_least)
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def merged(group: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of several runs as one: median, smallest, largest."""
    together = []
    names = dict.fromkeys(figure["name"] for one in group for figure in one["figures"])
    for name in names:
        same = [figure for one in group for figure in one["figures"] if figure["name"] == name]
        values = [figure["value"] for figure in same if figure["value"] is not None]
        together.append(
            same[0]
            | {
                "value": statistics.median(values) if values else None,
                "least": min(values, default=None),
                "most": max(values, default=None),
                "runs": len(group),
            }
        )
    return together


def shown(figure: dict[str, Any]) -> str:
    """A merged figure as text, with its spread and its bound."""
    digits = figure["digits"]
    if figure["value"] is None:
        number = "no"
    elif figure["least"] == figure["most"]:
        number = f"{figure['value']:.{digits}f}"
    else:
        number = f"{figure['value']:.{digits}f} [{figure['least']:.{digits}f}-{figure['most']:.{digits}f}]"
    lower, upper = figure["at_least"], figure["at_most"]
    if lower is not None and lower == upper:
        bound = f" (= {lower:g})"
    elif upper is not None:
        bound = f" (<= {upper:g})"
    elif lower is not None:
        bound = f" (>= {lower:g})"
    else:
        bound = ""
    return f"{number} {figure['name']}{bound}"
