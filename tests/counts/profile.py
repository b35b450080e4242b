"""Prints where the Lua of a paced item and of a drain runs: `python -m tests.counts.profile [MOST]`.

Instructions are those of Lua's virtual machine, so they are the same on every machine. The time within a C function
(`string.match`, `cjson.decode`, a command of Redis) is in none of them: look at the number of commands for that.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence

from daemon.telemetry.logs import configure_logs
from tests.counts.numbers import DRAINED, WAYS, watched
from tests.counts.sources import Line
from tests.counts.watched_lua import Script
from tests.servers import RedisServer

HOTTEST = 10


def main() -> None:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else HOTTEST
    configure_logs(level="warning")
    server = RedisServer()
    try:
        paced = asyncio.run(watched(server, WAYS["paced"]))
        drained = asyncio.run(watched(server, WAYS["drain"]))
    finally:
        server.close()
    print(f"# A paced item\n\n{report(paced, 1, most)}")
    print(f"\n# An item of a drain in rounds of 32\n\n{report(drained, DRAINED, most)}")


def report(scripts: Sequence[Script], items: int, most: int) -> str:
    """Tables of the scripts, and of their hottest functions and lines; all counts are those of one item."""
    lines: Counter[Line] = Counter()
    functions: Counter[Line] = Counter()
    for script in scripts:
        lines.update(script.lines)
        functions.update({line: count for line, count in script.functions.items() if line is not None})
    head = ("script", "runs", "instructions", "outside of functions", "distinct lines", "commands", "by name")
    hottest = sorted(scripts, key=lambda script: -script.lines.total())
    commands = sum(script.commands.total() for script in scripts)
    outside = sum(script.functions[None] for script in scripts)
    total = [
        "in all",
        "",
        _each(lines.total(), items),
        _each(outside, items),
        str(len(lines)),
        _each(commands, items),
        "",
    ]
    return "\n\n".join(
        [
            _table(head, [*(_row(script, items) for script in hottest), total]),
            _places("function", functions, items, most),
            _places("line", lines, items, most),
        ]
    )


def _row(script: Script, items: int) -> list[str]:
    return [
        script.source.name,
        f"{script.runs / items:.2f}",
        _each(script.lines.total(), items),
        _each(script.functions[None], items),
        str(len(script.lines)),
        _each(script.commands.total(), items),
        ", ".join(f"{name} {_each(count, items)}" for name, count in script.commands.most_common()),
    ]


def _places(what: str, counts: Counter[Line], items: int, most: int) -> str:
    rows = [
        (str(line), _each(count, items), f"`{line.text.strip()}`") for line, count in counts.most_common(most)
    ]
    return _table((f"hottest {what}s", "instructions", "text"), rows)


def _each(count: int, items: int) -> str:
    return f"{count / items:.0f}" if items == 1 else f"{count / items:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *escaped])


if __name__ == "__main__":
    main()
