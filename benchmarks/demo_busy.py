"""The demo as its first run on a slow machine: empty page caches, and busy loops beside it.

Run it as ``python -m benchmarks.demo_busy``. Each run is `make demo`. None may fail, and at most one in ten may see a
429; each 429 is printed with the calls before it, by the kernel's arrival times at the provider.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.account.refusals import latest_handled_s, refusals
from benchmarks.processes import ROOT, environment
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# It ends with this process, whatever ends that.
BUSY_LOOP = "while kill -0 $PPID; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done"
RUN_S = 300


@dataclass(frozen=True)
class Run:
    """One `make demo`. `first_call_s` is the time from its start to the first call at the provider."""

    exit_code: int
    seconds: float
    makespan_s: float = 0.0
    optimum_s: float = 0.0
    first_call_s: float = 0.0
    provider_late_s: float = 0.0  # the longest time from an arrival to its handling
    refused: Sequence[str] = ()

    def line(self) -> str:
        """The figures of the run."""
        return (
            f"exit {self.exit_code}, {self.seconds:.1f} s in all, first call after {self.first_call_s:.1f} s, batch "
            f"{self.makespan_s:.1f} s of {self.optimum_s:.1f} s, {len(self.refused)} x 429, provider at most "
            f"{self.provider_late_s * 1000:.0f} ms late"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_busy", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--busy", type=int, default=2, help="busy loops beside it")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "demo_busy.json", help="where to")
    options = parser.parse_args(arguments)
    before = environment()
    if not drop_caches():
        print(f"{DROP_CACHES} cannot be written here, so the page caches stay as they are.")
    runs = []
    with busy_loops(options.busy):
        for number in range(1, options.runs + 1):
            drop_caches()
            runs.append(run_once())
            print(f"run {number}: {runs[-1].line()}", flush=True)
            for text in runs[-1].refused:
                print(f"  429: {text}", flush=True)
    kept = verdict(runs)
    write(options.json, before, runs=[asdict(run) for run in runs], kept=kept)
    return 0 if kept else 1


def verdict(runs: Sequence[Run]) -> bool:
    """Print and return whether no run failed, and at most one in ten saw a 429."""
    failed, throttled = sum(run.exit_code != 0 for run in runs), sum(bool(run.refused) for run in runs)
    kept = not failed and throttled <= len(runs) // 10
    print(
        f"{len(runs)} runs: {failed} failed, {throttled} with a 429 (at most {len(runs) // 10}): "
        f"{'kept' if kept else 'MISSED'}"
    )
    return kept


def drop_caches() -> bool:
    """Make the next run read its files from the disk; False where this is not permitted."""
    os.sync()
    try:
        DROP_CACHES.write_text("3\n")
    except OSError:
        return False
    return True


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keep `number` cores busy."""
    loops = [subprocess.Popen(["sh", "-c", BUSY_LOOP]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run_once() -> Run:
    """One `make demo` in a fresh directory."""
    with tempfile.TemporaryDirectory(prefix="pixmill-demo-busy-") as directory:
        command = ["make", "--silent", "demo", f"DEMO=--json --keep --out {directory}/out"]
        started = time.monotonic()
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"TMPDIR": directory},
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        seconds = time.monotonic() - started
        try:
            document: dict[str, Any] = json.loads(done.stdout)
            ledger: dict[str, Any] = json.loads((Path(document["kept"]) / "ledger.json").read_text())
        except (ValueError, KeyError):
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
            return Run(done.returncode or 1, seconds)
    entries = ledger["entries"]
    first_s = min(call["at_s"] for call in entries)
    return Run(
        exit_code=done.returncode,
        seconds=seconds,
        makespan_s=document["makespan_seconds"],
        optimum_s=document["optimum_seconds"],
        first_call_s=first_s - started,
        provider_late_s=latest_handled_s(entries),
        refused=[refusal.text(first_s) for refusal in refusals(entries, document["quota"]["images"])],
    )


if __name__ == "__main__":
    sys.exit(main())
