"""The batches of the benchmark run in real time, too: real processes, a real server, the simulator."""

from __future__ import annotations

import pytest

from benchmarks.today import real
from benchmarks.today.terms import ACCOUNTS


@pytest.mark.timeout(120)
@pytest.mark.parametrize("account", [terms.name for terms in ACCOUNTS])
def test_scripts_and_workers_make_every_picture(account: str) -> None:
    for outcome in real.run(account, ["groups", "pixmill-1"], 0, bad_day=False, pictures=5):
        assert (outcome.made, outcome.clock) == (5, "real")
        assert outcome.paid >= 5  # a script buys a picture again if a busy machine loses its reply
        assert outcome.makespan_s >= outcome.optimum_s


@pytest.mark.timeout(120)
def test_a_worker_that_is_killed_loses_nothing_and_a_script_does() -> None:
    script, worker = real.run("window", ["serial", "pixmill-1"], 0, bad_day=True, pictures=8)
    assert script.lost > 0
    assert worker.lost == 0
