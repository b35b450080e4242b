"""Fills the figures of the documentation from the files in `benchmarks/results`, so that no figure is typed by hand.

Run it as ``python -m benchmarks.tables``. A block of a page begins with ``<!-- figures: NAME -->`` and ends with
``<!-- end -->``. A block whose file does not exist stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.report import caution, load_before, quiet
from benchmarks.tables.goals import goals
from benchmarks.venvs import BENCHMARKS

RESULTS = BENCHMARKS / "results"
BLOCK = re.compile(r"(<!-- figures: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
# The benchmarks whose results the pages show, with their modules, in the order in which they run: the short ones first.
PARTS = {
    "footprint": "item.footprint",
    "start": "start",
    "pictures": "item.pictures",
    "flight": "flight",
    "latency": "item.latency",
    "wake": "drain.wake",
    "paced": "item.paced",
    "http": "http",
    "throughput": "drain.throughput",
    "replicas": "drain.replicas",
    "backlog": "drain.backlog",
    "today": "today",
}

RATIO = "to_"  # the name of a column of ratios begins like this
Document = Mapping[str, Any]
Results = Mapping[str, Document]


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__).parse_args(arguments)
    results = read_results()
    for path in pages():
        text = path.read_text("utf-8")
        new = filled(text, results)
        if new != text:
            path.write_text(new, "utf-8")
            print(f"new figures: {path.relative_to(ROOT)}")


def pages() -> list[Path]:
    """The pages that may have blocks."""
    return [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read_results(folder: Path = RESULTS) -> dict[str, Document]:
    """All files of results by their name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def filled(text: str, results: Results) -> str:
    """The page with each block made anew; exits with a sentence at a block of an unknown name."""
    return BLOCK.sub(lambda found: found[1] + block(found[2], found[3], results) + found[4], text)


def block(name: str, present: str, results: Results) -> str:
    """The text of a block, or what it has now where there is no file for it."""
    if name == "goals":
        return f"{goals(results)}\n" if results else present
    file = name.removeprefix("readme-").removesuffix("-zh")
    if file not in results:
        if file not in PARTS:
            sys.exit(f"No benchmark gives figures for the block {name!r}; there are {', '.join(PARTS)}.")
        return present
    document = results[file]
    return f"{OWN.get(name, plain)(document)}\n\n{measured_on(document['environment'])}\n"


def plain(document: Document) -> str:
    """Every row of the summary, every column that is a number or a text; a row may be one figure with its bound."""
    rows: Sequence[Mapping[str, Any]] = document["summary"]
    if "at_most" in rows[0]:
        return markdown(("", "median", "least to most", "bound"), [_figure(row) for row in rows])
    columns = [name for name in rows[0] if not any(isinstance(row[name], list | dict) for row in rows)]
    if not quiet(document["environment"]):
        rows = [{name: None if name.startswith(RATIO) else row[name] for name in columns} for row in rows]
    return markdown(
        [column.replace("_", " ") for column in columns],
        [[_cell(row[column]) for column in columns] for row in rows],
    )


def paced(document: Document) -> str:
    """The server's time by step, its CPU, and the longest runs of scripts."""
    (found,) = document["summary"]
    steps = [
        (one["mode"], one["step"], _cell(one["median_us"]), _cell(one["mean_us"])) for one in found["steps"]
    ]
    cpu = [(mode, "CPU of the server", _cell(us), "-") for mode, us in found["cpu_us"].items()]
    longest = ", ".join(
        f"{name} {us:,}" for name, us in sorted(found["longest_us"].items(), key=lambda one: -one[1])
    )
    rows = markdown(("slot", "step", "median, us", "mean, us"), [*steps, *cpu])
    return f"{rows}\n\nLongest runs of scripts, us: {longest}."


def http(document: Document) -> str:
    """Every figure of every scenario; a scenario has its title at the first one."""
    rows = [
        (row["title"] if number == 0 else "", *_figure(figure))
        for row in document["summary"]
        for number, figure in enumerate(row["figures"])
    ]
    return markdown(("", "", "median", "least to most", "bound"), rows)


def readme_throughput(document: Document) -> str:
    """How fast a queue of no-ops is drained, in short."""
    sizes = document["environment"]
    intro = (
        f"Draining {sizes['items']:,} no-op items with one worker process, results stored, concurrency "
        f"{sizes['concurrency']}, median of {sizes['repeats']} interleaved runs (`make bench`):"
    )
    head = ("", "items/s", "CPU an item, worker + server", "times the fastest peer", f"times {BARE}")
    return f"{intro}\n\n{markdown(head, _throughput_rows(document))}"


def readme_throughput_zh(document: Document) -> str:
    """The same in Chinese."""
    sizes = document["environment"]
    intro = (
        f"单个工作进程处理 {sizes['items']:,} 个空任务并保存结果，并发 {sizes['concurrency']}，"
        f"交替运行 {sizes['repeats']} 次的中位数（`make bench`）："
    )
    loop = "裸循环 XREADGROUP/SET/XACK"
    head = ("", "每秒任务数", "每个任务的 CPU，工作进程 + 服务器", "与最快同类的倍数", f"与{loop} 的倍数")
    return f"{intro}\n\n{markdown(head, _throughput_rows(document))}"


def _throughput_rows(document: Document) -> list[tuple[str, ...]]:
    return [
        (
            _contestant(row),
            f"{row['median']:,.0f}",
            f"{row['worker_cpu_us']:.0f} + {row['server_cpu_us']:.0f} us",
            _cell(row["to_best_peer"]),
            _cell(row["to_bare"]),
        )
        for row in document["summary"]
        if row["name"] != "bare"
    ]


def throughput(document: Document) -> str:
    """The same with everything that was measured."""
    head = ("", "items/s", "least to most", "CPU of the worker, us", "of the server, us", "peak RSS, MiB")
    rows = [
        (
            _contestant(row),
            f"{row['median']:,.0f}",
            f"{row['slowest']:,.0f} to {row['fastest']:,.0f}",
            f"{row['worker_cpu_us']:.0f}",
            f"{row['server_cpu_us']:.0f}",
            f"{row['peak_rss_mib']:.0f}",
            _cell(row["to_best_peer"]),
            _cell(row["to_bare"]),
        )
        for row in document["summary"]
    ]
    return markdown((*head, "times the fastest peer", f"times {BARE}"), rows)


def _contestant(row: Mapping[str, Any]) -> str:
    """Its name, with the version of a peer."""
    return NAMES.get(row["name"]) or f"{PACKAGES.get(row['name'], row['name'])} {row['version']}"


BARE = "a bare XREADGROUP/SET/XACK loop"
NAMES = {"pixmill": "Pixmill", "bare": "the bare loop"}
PACKAGES = {"taskiq": "taskiq-redis", "docket": "pydocket"}
# Blocks with a form of their own; a block of any other file shows its summary.
OWN: dict[str, Callable[[Document], str]] = {
    "readme-throughput": readme_throughput,
    "readme-throughput-zh": readme_throughput_zh,
    "throughput": throughput,
    "paced": paced,
    "http": http,
}


def measured_on(environment: Mapping[str, Any]) -> str:
    """The machine in a sentence, and why ratios are missing."""
    python, cpus, day = environment["python"], environment["cpus"], environment["date"][:10]
    load = load_before(environment)
    machine = (
        f"{environment['server']}, Python {python}, {cpus} cores, load {load:.1f} before the start, {day}."
    )
    return f"{machine} {caution(environment)}".rstrip()


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; words stand to the left, as is the default."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("|  |", "| |")


def _figure(figure: Mapping[str, Any]) -> tuple[str, ...]:
    value, least, most = (
        "-" if figure[name] is None else f"{figure[name]:,.{figure['digits']}f}"
        for name in ("value", "least", "most")
    )
    bounds = [(">=", figure["at_least"]), ("<=", figure["at_most"])]
    bound = ", ".join(f"{sign} {limit:g}" for sign, limit in bounds if limit is not None)
    return figure["name"], value, f"{least} to {most}", bound or "-"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    main()
