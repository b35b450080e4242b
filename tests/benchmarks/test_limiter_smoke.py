"""The limiter benchmark still runs, end to end, and its arithmetic is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import Figure
from benchmarks.limiter.__main__ import SETTINGS, report, summarise
from benchmarks.limiter.oracle import (
    greedy_slots,
    most_admissible,
    most_at_once,
    most_in_window,
    steady_rate,
)
from benchmarks.limiter.provider import Account, Arrival, Refusal, Rule, Rules
from benchmarks.limiter.rig import PEERS
from benchmarks.limiter.scenarios import MEASURED, SCENARIOS, why_not
from tests.benchmarks.smoke import run_small


@pytest.mark.timeout(120)
def test_a_small_burst_keeps_to_the_limit_and_leaves_its_figures(tmp_path: Path) -> None:
    options = ("--only", "tiny", "--peers", "--questions", "200")
    printed, written = run_small("limiter", tmp_path, *options)
    (run,) = written["runs"]
    assert run["contestant"] == "pixmill"
    assert run["reports"][0]["done"] == len(run["admitted"]) == 20
    assert run["reports"][0]["errors"] == 0
    assert "10 per 1 s, 20 jobs" in printed


def test_every_peer_has_a_gate_and_requirements_and_takes_part_or_says_why_not() -> None:
    for gate in SETTINGS:
        assert (PEERS / f"{gate}_gate.py").exists()
        assert gate == "pixmill" or (PEERS / f"requirements-{gate}.txt").exists()
    assert not any(why_not(SCENARIOS[name], "pixmill") for name in MEASURED)
    assert not any(why_not(SCENARIOS["burst"], gate) for gate in SETTINGS)
    assert why_not(SCENARIOS["cut"], "limits") == "its rate is fixed"


def test_the_oracle_fills_each_window_and_every_gap() -> None:
    fast, slow = Rule("s", 2, 1.0), Rule("images", 4, 10.0, unit="images")
    assert greedy_slots([fast], [(1, 0.0)] * 5) == [0, 0, 1, 1, 2]
    # The big call must wait for the pictures; the small one behind it need not.
    assert greedy_slots([fast, slow], [(3, 0.0), (4, 0.0), (1, 0.0)]) == [0, 10, 0]
    assert greedy_slots([Rule("in_flight", 2)], [(1, 3.0), (1, 1.0), (1, 1.0), (1, 1.0)]) == [0, 0, 1, 2]


def test_a_window_is_half_open_and_so_is_a_call() -> None:
    assert most_in_window([(0.0, 1), (0.5, 2), (1.0, 4)], 1.0) == 6
    assert most_at_once([(0.0, 1.0), (1.0, 2.0), (1.5, 3.0)]) == 2
    assert most_admissible(60, 10, 60) == 360
    assert most_admissible(60, 10, 61) == 420
    assert steady_rate([0, 1, 2, 3], 2, 1.0) == 0.5
    assert steady_rate([0, 1], 2, 1.0) is None


def test_the_provider_enforces_all_rules_on_arrival_and_refuses_for_free() -> None:
    rules = Rules((Rule("window", 2, 5.0), Rule("a", 1, 1.0, models=("A",)), Rule("in_flight", 1)))
    account = Account(Rules.from_json(rules.to_json()))
    first = Arrival(0.0, 0, "A", 1, 0)
    assert account.admit(first) is None
    assert account.admit(Arrival(0.5, 1, "A", 1, 0)) == 0.5
    assert account.ledger[-1].rule == "a"
    assert account.admit(Arrival(0.6, 2, "B", 1, 0)) is not None
    assert account.ledger[-1].rule == "in_flight"
    account.end(first, 0.7)
    assert account.admit(Arrival(0.8, 3, "B", 1, 0)) is None
    assert account.admit(Arrival(1.0, 4, "B", 1, 0)) == pytest.approx(4.0)
    assert account.ledger[-1].rule == "window"


def test_the_provider_refuses_once_and_stays_closed() -> None:
    account = Account(Rules((), Refusal(at_s=2, retry_after_s=5)), started_at_s=10)
    replies = [(11.9, None), (12.5, 5.0), (13.5, 4.0), (17.5, None)]
    assert [(at_s, account.admit(Arrival(at_s, 0, "A", 1, 0))) for at_s, _ in replies] == replies
    assert [arrival.rule for arrival in account.ledger] == ["", "injected", "closed", ""]


def test_the_provider_cuts_a_limit_at_its_time() -> None:
    account = Account(Rules((Rule("main", 3, 10.0, then_at_s=1, then_count=1),)))
    assert account.admit(Arrival(0.0, 0, "A", 1, 0)) is None
    assert account.admit(Arrival(0.5, 0, "A", 1, 0)) is None
    assert account.admit(Arrival(1.0, 0, "A", 1, 0)) == 9.5


def test_a_bound_is_reached_only_if_every_run_reached_it() -> None:
    assert not Figure("x", None, at_most=1).reached
    assert Figure("x", None).reached
    runs = [_run(value) for value in (1.0, 3.0, 2.0)]
    (row,) = summarise(runs)
    assert not row.reached
    assert (row.figures[0]["value"], row.figures[0]["least"], row.figures[0]["most"]) == (2, 1, 3)
    text = report([row], [SCENARIOS["tiny"]], ["pixmill"], {"cpus": 2})
    assert "2.0 [1.0-3.0] s makespan (<= 2)" in text
    assert "MISSED" in text


def _run(value: float) -> dict[str, object]:
    figure = Figure("s makespan", value, at_most=2, digits=1)
    return {
        "scenario": "tiny",
        "contestant": "pixmill",
        "setting": "",
        "processes": 1,
        "version": "1",
        "redis_py": "8",
        "figures": [vars(figure) | {"reached": figure.reached}],
        "busy": 0.1,
    }
