"""The report of every benchmark: medians with their spread, ratios of quiet runs alone, a table, and a file.

The file is JSON with `environment` (versions, cores, load before and after), `summary` (a list of rows) and `runs`
(as they were measured). `benchmarks.tables` takes the figures of the documentation from such files.
"""

from __future__ import annotations

import json
import os
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Above this load before the start the machine did other work, which hits one contestant more than the other.
QUIET_LOAD = 1.0


@dataclass(frozen=True)
class Spread:
    """The median of several runs, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises statistics.StatisticsError when there are no values."""
        return cls(statistics.median(values), min(values), max(values))

    def shown(self, digits: int = 0) -> str:
        return f"{self.median:,.{digits}f} [{self.least:,.{digits}f}-{self.most:,.{digits}f}]"


def load_before(environment: Mapping[str, Any]) -> float:
    """The load of the minute before the start; some benchmarks give it the longer name."""
    return float((environment.get("load_average_before") or environment["load_average"])[0])


def quiet(environment: Mapping[str, Any]) -> bool:
    """Whether the machine was idle enough before the start for times to be compared."""
    return load_before(environment) <= QUIET_LOAD


def ratio(value: float, base: float | None, environment: Mapping[str, Any]) -> float | None:
    """`value` as a multiple of `base`; None without a base, and where the machine was not quiet."""
    return value / base if base and quiet(environment) else None


def shown_ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def caution(environment: Mapping[str, Any]) -> str:
    """The sentence that stands in the place of ratios, or nothing where the machine was quiet."""
    if quiet(environment):
        return ""
    load = load_before(environment)
    return f"No ratio: the load was {load:.1f} before the start, above {QUIET_LOAD:g}. Run it again on a quiet machine."


def rounds(names: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """Every contestant once a round, in a new random order, so a slow minute hits no one in particular."""
    for number in range(1, repeats + 1):
        for name in random.sample(names, len(names)):
            yield number, name


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Rows as plain text; the first `words` columns are words, the others are numbers and stand to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def facts(environment: Mapping[str, Any]) -> str:
    """The machine in one line, and below it why ratios are missing."""
    line = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in environment.items())
    return f"{line}\n{caution(environment)}".rstrip()


def write(path: Path, environment: Mapping[str, Any], **parts: Any) -> None:
    """Write the file; the load after the run is added to its environment."""
    document = {"environment": {**environment, "load_average_after": os.getloadavg()}, **parts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return "/".join(f"{number:.1f}" for number in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    return str(value)
