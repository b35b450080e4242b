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
AFTERWARDS = {"today": "Run `make today-plot` for its plot and its tables."}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, also after one that fails; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(tables.PARTS), default=list(tables.PARTS), metavar="PART",
                        help=f"of {', '.join(tables.PARTS)}")  # fmt: skip
    parser.add_argument("--results", type=Path, default=tables.RESULTS, help="the folder of the results")
    options = parser.parse_args(arguments)
    failed = [name for name in tables.PARTS if name in options.only and not run(name, options.results)]
    if options.results == tables.RESULTS:
        tables.main([])
    if failed:
        print(f"These parts failed, so their results are as before: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, results: Path) -> bool:
    """Run a part in a process of its own; False if it wrote no results. A part that is not here is passed over."""
    module = f"benchmarks.{tables.PARTS[name]}"
    if importlib.util.find_spec(module) is None:
        print(f"{name}: there is no {module} here.", flush=True)
        return True
    wait_until_quiet()
    print(f"\n{name}:", flush=True)
    path = results / f"{name}.json"
    before = _written_ns(path)
    command = [sys.executable, "-m", module, *OPTIONS.get(name, ()), "--json", str(path)]
    subprocess.run(command, cwd=ROOT, check=False)  # a part that misses a bound ends with 1, too
    if AFTERWARDS.get(name):
        print(AFTERWARDS[name], flush=True)
    return _written_ns(path) != before


def _written_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def wait_until_quiet() -> None:
    """Wait for a low load, for a limited time: the part before has just ended."""
    until = time.monotonic() + QUIET_WITHIN_S
    while os.getloadavg()[0] > QUIET_LOAD and time.monotonic() < until:
        time.sleep(LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
