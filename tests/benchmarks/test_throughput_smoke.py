"""The throughput benchmark still runs, end to end, for contestants without an environment of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.drain.throughput import summarise, table
from tests.benchmarks.smoke import run_small

QUIET: dict[str, object] = {"load_average_before": (1.0, 4.0, 4.0)}
BUSY: dict[str, object] = {"load_average_before": (1.1, 0.0, 0.0)}


@pytest.mark.timeout(120)
def test_the_benchmark_drains_a_small_queue_and_writes_its_figures(tmp_path: Path) -> None:
    names = ("bare", "pixmill")
    stdout, written = run_small("drain.throughput", tmp_path, "--items=200", "--repeats=1", "--only", *names)
    assert sorted(run["name"] for run in written["runs"]) == sorted(names)
    assert all(run["items"] == 200 for run in written["runs"])
    for part in ("drain_s", "worker_cpu_s", "server_cpu_s", "peak_rss_mib"):
        assert all(run[part] > 0 for run in written["runs"]), part
    assert all(name in stdout for name in names)


def test_ratios_compare_medians_with_the_bare_loop_and_the_fastest_peer() -> None:
    runs = [_run("bare", 1.0), _run("arq", 4.0), _run("saq", 2.0)]
    runs += [_run("pixmill", drain_s) for drain_s in (10.0, 1.25, 0.5)]
    rows = {row.name: row for row in summarise(runs, QUIET)}
    assert list(rows) == ["bare", "pixmill", "saq", "arq"]
    assert (rows["pixmill"].median, rows["pixmill"].slowest, rows["pixmill"].fastest) == (80, 10, 200)
    assert rows["pixmill"].to_bare == 0.8
    assert rows["pixmill"].to_best_peer == 1.6
    assert rows["bare"].to_best_peer == 2.0
    assert (rows["saq"].worker_cpu_us, rows["saq"].server_cpu_us) == (10_000, 5_000)


@pytest.mark.parametrize(("names", "about"), [(["pixmill"], QUIET), (["pixmill", "bare", "saq"], BUSY)])
def test_a_ratio_without_its_other_side_or_a_quiet_machine_is_shown_as_a_dash(
    names: list[str], about: dict[str, object]
) -> None:
    rows = summarise([_run(name, 1.0) for name in names], about)
    assert {(row.to_bare, row.to_best_peer) for row in rows} == {(None, None)}
    assert all(line.split()[-2:] == ["-", "-"] for line in table(rows).splitlines()[1:])


def _run(name: str, drain_s: float) -> dict[str, object]:
    return {
        "name": name,
        "version": "1",
        "redis_py": "8",
        "items": 100,
        "drain_s": drain_s,
        "worker_cpu_s": 1.0,
        "server_cpu_s": 0.5,
        "peak_rss_mib": 60.0,
    }
