"""Pixmill, a bare loop on redis-py and five peers, each run as a script in an environment of its own.

`benchmarks/peers/harness.py` says what the scripts do. Pixmill's own is `pixmill.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import redis

from benchmarks.processes import run_child
from benchmarks.venvs import BENCHMARKS, python_for

PEERS = ("arq", "docket", "saq", "streaq", "taskiq")
SCRIPTS: dict[str, tuple[str, ...]] = {
    "pixmill": ("-m", "benchmarks.drain.pixmill"),
    **{name: (str(BENCHMARKS / "peers" / f"{name}_peer.py"),) for name in ("bare", *PEERS)},
}
WITHIN_S = {"drain": 600.0, "latency": 60.0}  # a run takes a tenth of it


def interpreters(names: Sequence[str]) -> dict[str, Path]:
    """The Python of each contestant; a peer whose environment cannot be made is left out by name."""
    found = {}
    for name in names:
        try:
            found[name] = python_for(name) if name in PEERS else Path(sys.executable)
        except (RuntimeError, FileNotFoundError) as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
    return found


def contest(
    name: str, python: Path, url: str, kind: Literal["drain", "latency"], items: int, concurrency: int
) -> dict[str, Any] | None:
    """One run, on a server that is emptied first; the script's line, or None where a peer does not come to its end."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
    command = [python, *SCRIPTS[name], url, kind, str(items), str(concurrency)]
    try:
        ended = run_child(command, {}, WITHIN_S[kind])
    except TimeoutError as error:
        if name not in PEERS:
            raise
        print(f"left out of this round: {name} ({error})", file=sys.stderr)
        return None
    line: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    if line["items"] != items:
        sys.exit(f"{name} ran {line['items']} items instead of {items}.")
    return line | {"name": name}
