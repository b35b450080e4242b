"""The benchmarks of long queues and of many replicas still run, end to end, on a small scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.drain import backlog, replicas
from benchmarks.drain.noops import Work
from tests.benchmarks.smoke import run_small

QUIET: dict[str, object] = {"load_average": (0.2, 4.0, 4.0)}
BUSY: dict[str, object] = {"load_average": (1.1, 0.0, 0.0)}


@pytest.mark.timeout(120)
def test_each_backlog_is_drained_in_part_and_leaves_its_costs(tmp_path: Path) -> None:
    sizes = {"drained": 60, "queued": 200, "tenants": 40, "batches": 5, "batch-size": 30, "repeats": 1}
    _, document = run_small("drain.backlog", tmp_path, *(f"--{name}={size}" for name, size in sizes.items()))
    assert [row["name"] for row in document["summary"]] == ["few", "queued", "tenants", "batches"]
    for run in document["runs"]:
        assert run["items"] >= 60
        assert min(run["drain_s"], run["server_cpu_s"], run["worker_cpu_s"]) > 0
    assert all(row["bytes_an_item"] > 100 for row in document["summary"])


@pytest.mark.timed
@pytest.mark.timeout(120)
def test_one_and_two_replicas_drain_a_queue_without_a_limit_and_under_a_quota(tmp_path: Path) -> None:
    sizes = {"items": 100, "images": 5, "seconds": 2, "repeats": 1}
    options = [f"--{name}={size}" for name, size in sizes.items()]
    _, document = run_small("drain.replicas", tmp_path, *options, "--replicas", "1", "2")
    rows = [(row["kind"], row["replicas"]) for row in document["summary"]]
    assert rows == [("no limit", 1), ("no limit", 2), ("quota", 1), ("quota", 2)]
    assert {run["items"] for run in document["runs"]} == {100, 10}
    assert all(row["over_optimum"] > 0.9 for row in document["summary"] if row["kind"] == "quota")


def test_work_belongs_to_tenants_in_turns_or_to_batches_of_one_size() -> None:
    singles = [entry["data"] for entry in Work(3, tenants=2).entries()]
    assert [data.rpartition("tenant-")[2] for data in singles] == ['0"}', '1"}', '0"}']
    assert "tenant" not in "".join(entry["data"] for entry in Work(3).entries())
    entries = [*Work(6, batches=3, name="b").entries()]
    assert [entry["data"].count('"prompt"') for entry in entries] == [2, 2, 2]


def test_a_cost_is_compared_with_the_small_backlog_on_a_quiet_machine_alone() -> None:
    runs = [_run("few", 1.0), _run("queued", 1.5), _run("queued", 1.1), _run("queued", 1.2)]
    backlogs: Any = {name: SimpleNamespace(title=name, bytes_an_item=1500.0) for name in ("few", "queued")}
    few, queued = backlog.summarise(runs, backlogs, QUIET)
    assert (few.cpu_to_few, queued.cpu_to_few, queued.wall_to_few) == (1.0, 1.2, 1.2)
    assert (queued.least_cpu_us, queued.most_cpu_us) == (22_000, 30_000)
    assert [row.cpu_to_few for row in backlog.summarise(runs, backlogs, BUSY)] == [None, None]


def test_replicas_are_compared_with_one_of_their_own_kind() -> None:
    runs = [_run("", 2.0, kind="no limit", replicas=1), _run("", 1.0, kind="no limit", replicas=2)]
    runs += [_run("", 11.0, kind="quota", replicas=2, optimum_s=10.0, refused=3)]
    one, two, limited = replicas.summarise(runs, QUIET)
    assert (one.to_one, two.to_one, two.over_optimum) == (1.0, 2.0, None)
    assert (limited.to_one, limited.over_optimum, limited.refused) == (None, 1.1, 3)


def _run(name: str, seconds: float, **more: object) -> Mapping[str, Any]:
    parts = dict.fromkeys(("drain_s", "server_cpu_s", "worker_cpu_s"), seconds)
    return {"name": name, "items": 100, "peak_rss_mib": 60.0, **parts, **more}
