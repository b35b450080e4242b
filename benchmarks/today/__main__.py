"""100 pictures under a real quota, as people make them today, beside Pixmill: see docs/measured/today.md.

Run it as ``python -m benchmarks.today``: every strategy in virtual time, on a quiet day and on a bad one. With --real
smaller batches run in real time too, and stand beside the same batches in virtual time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.processes import environment, server_version
from benchmarks.today import real, virtual
from benchmarks.today.figures import rows
from benchmarks.today.outcome import Outcome
from benchmarks.today.pages import page
from benchmarks.today.strategies import STRATEGIES
from benchmarks.today.terms import ACCOUNTS, Terms, small
from benchmarks.venvs import BENCHMARKS
from tests.servers import RedisServer


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.today", description=__doc__)
    parser.add_argument("--seeds", type=int, default=9, help="batches in virtual time")
    parser.add_argument("--real", action="store_true", help="run smaller batches in real time as well")
    parser.add_argument("--repeats", type=int, default=3, help="batches in real time")
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "today.json", help="where to")
    options = parser.parse_args(arguments)
    facts = environment() | {"server": server_version()}
    # First, while the machine is as idle as its load says.
    outcomes = in_real_time(options.only, options.repeats) if options.real else []
    if options.real:
        small_terms = [small(terms.name) for terms in ACCOUNTS]
        same = in_virtual_time(small_terms, options.only, range(options.repeats))
        outcomes += [replace(one, clock="small") for one in same]
    outcomes += in_virtual_time(ACCOUNTS, options.only, range(options.seeds))
    facts["load_average_after"] = os.getloadavg()
    summary = rows(outcomes)
    print(page(summary, facts))
    document = {
        "environment": facts,
        "summary": [asdict(row) for row in summary],
        "runs": [asdict(one) for one in outcomes],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 0


def in_virtual_time(
    accounts: Sequence[Terms], strategies: Sequence[str], seeds: Sequence[int]
) -> list[Outcome]:
    """All batches on a server of their own."""
    began_s, server = time.process_time(), RedisServer()
    try:
        outcomes = [
            virtual.run(name, terms, seed, server.url, bad_day=bad_day)
            for terms in accounts
            for name in strategies
            for bad_day in (False, True)
            for seed in seeds
        ]
    finally:
        server.close()
    print(f"{len(outcomes)} batches in {time.process_time() - began_s:.1f} s of CPU", file=sys.stderr)
    return outcomes


def in_real_time(strategies: Sequence[str], repeats: int) -> list[Outcome]:
    """The smaller batches; of each account, all strategies at once."""
    return [
        outcome
        for seed in range(repeats)
        for terms in ACCOUNTS
        for bad_day in (False, True)
        for outcome in real.run(terms.name, strategies, seed, bad_day=bad_day)
    ]


if __name__ == "__main__":
    sys.exit(main())
