"""Runs the benchmarks of what Pixmill costs, one after the other, and fills their figures into the documentation.

Run it as ``python -m benchmarks`` (`make bench`). Each part writes `benchmarks/results/NAME.json` when it has ended.
A part begins when the machine has become quiet; if it does not, its file has no ratios and says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.report import QUIET_LOAD
from benchmarks.tables import __main__ as tables

QUIET_WITHIN_S, LOOK_S = 300.0, 5.0
OPTIONS = {"today": ("--real",)}
FAILED, MISSED = "These parts failed, so their results are as before", "These parts missed a bound"
AFTERWARDS = {"today": "Run `make today-plot` for its plot and its tables."}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, also after one that fails; the exit code is 1 if one failed, or missed a bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(tables.PARTS), default=list(tables.PARTS), metavar="PART",
                        help=f"of {', '.join(tables.PARTS)}")  # fmt: skip
    parser.add_argument("--results", type=Path, default=tables.RESULTS, help="the folder of the results")
    options = parser.parse_args(arguments)
    faults = {name: run(name, options.results) for name in tables.PARTS if name in options.only}
    if options.results == tables.RESULTS:
        tables.main([])
    for kind in (FAILED, MISSED):
        if names := [name for name, fault in faults.items() if fault == kind]:
            print(f"{kind}: {', '.join(names)}.", file=sys.stderr)
    return 1 if any(faults.values()) else 0


def run(name: str, results: Path) -> str | None:
    """Run a part in a process of its own; FAILED without results, or MISSED. One that is not here is no fault."""
    module = f"benchmarks.{tables.PARTS[name]}"
    if importlib.util.find_spec(module) is None:
        print(f"{name}: there is no {module} here.", flush=True)
        return None
    wait_until_quiet()
    print(f"\n{name}:", flush=True)
    path = results / f"{name}.json"
    before = _written_ns(path)
    command = [sys.executable, "-m", module, *OPTIONS.get(name, ()), "--json", str(path)]
    ended = subprocess.run(command, cwd=ROOT, check=False)
    if AFTERWARDS.get(name):
        print(AFTERWARDS[name], flush=True)
    if _written_ns(path) == before:
        return FAILED
    return MISSED if ended.returncode else None  # with results, a part ends so for a bound alone


def _written_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def wait_until_quiet() -> None:
    """Wait for a low load, for a limited time: the part before has just ended."""
    until = time.monotonic() + QUIET_WITHIN_S
    while os.getloadavg()[0] > QUIET_LOAD and time.monotonic() < until:
        time.sleep(LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
