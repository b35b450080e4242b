"""The arithmetic of the benchmark of places, on tasks as the simulator's ledger has them."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

Task = Mapping[str, Any]  # with at_s, ended_at_s, found_at_s


class Look(NamedTuple):
    """The state that the benchmark saw at one time."""

    at_s: float
    polls: int
    succeeded: int


def span(tasks: Sequence[Task], places: int) -> float:
    """The time from the first start to the last, and with one place to its end, as a multiple of the optimum."""
    free_at, start_s, end_s = [0.0] * places, 0.0, 0.0
    for task in tasks:
        start_s = heapq.heappop(free_at)
        end_s = start_s + task["ended_at_s"] - task["at_s"]
        heapq.heappush(free_at, end_s)
    took_s = (tasks[-1]["found_at_s"] if places == 1 else tasks[-1]["at_s"]) - tasks[0]["at_s"]
    # The last tasks of several places end in any order, each alone.
    best_s = end_s if places == 1 else start_s
    return float(took_s / best_s) if best_s else 1.0


def most_at_once(tasks: Sequence[Task]) -> int:
    """The most tasks that ran at one time."""
    at_once = most = 0
    for _, change in sorted(
        [(task["at_s"], 1) for task in tasks] + [(task["ended_at_s"], -1) for task in tasks]
    ):
        at_once += change
        most = max(most, at_once)
    return most


def handed_on_s(tasks: Sequence[Task], places: int) -> list[float]:
    """The times from the news that a task has ended to the arrival of the next call, in a place that is never idle."""
    news = sorted(task["found_at_s"] for task in tasks)
    starts = sorted(task["at_s"] for task in tasks)[places:]
    return [start_s - news_s for start_s, news_s in zip(starts, news, strict=False)]


def gap_by_turns_s(durations_s: Iterable[float], places: int, polls_per_s: float) -> float:
    """The mean gap if running tasks are polled in turn, evenly, and the next task follows each end at once."""
    rest = iter(durations_s)
    running = deque(islice(rest, places))
    gaps_s: list[float] = []
    now_s = 0.0
    while running:
        now_s += 1 / polls_per_s
        ended_at_s = running.popleft()
        if ended_at_s > now_s:
            running.append(ended_at_s)
            continue
        gaps_s.append(now_s - ended_at_s)
        running.extend(now_s + duration_s for duration_s in islice(rest, 1))
    return sum(gaps_s) / len(gaps_s)


def polls_used(looks: Sequence[Look], all_run_until: int, polls_per_s: float) -> float:
    """The polls as a part of those that the limit allows, while all places are taken.

    That is until `all_run_until` tasks have succeeded. Polls may leave many at once, so the time runs from one such
    moment to another; 0 if there is only one.
    """
    full = [look for look in looks if look.succeeded <= all_run_until]
    moments = [look for before, look in pairwise(full) if look.polls > before.polls]
    if len(moments) < 2:
        return 0.0
    first, last = moments[0], moments[-1]
    return (last.polls - first.polls) / (polls_per_s * (last.at_s - first.at_s))
