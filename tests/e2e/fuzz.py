"""Sends a running gateway what its OpenAPI document allows and forbids, and compares the answers with it.

`make fuzz` runs it for five minutes. Live events and archives are left out: an answer there has no end, or no schema.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.e2e.processes import Command

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
ENDLESS = r"/(events|archive\.zip)$"
FIVE_MINUTES_S = 300
SEED = 13
BEGINNING_S = 120  # beyond the time of the run: interpreters start, the last requests end


class Fuzzed(NamedTuple):
    """The end of a run: the exit code (0: nothing was found), what the fuzzer printed, and the gateway's own words."""

    code: int
    report: str
    log: str

    @property
    def tracebacks(self) -> int:
        return self.log.count("Traceback")


def fuzz(folder: Path, seconds: int, seed: int = SEED) -> Fuzzed:
    """Fuzz a gateway with a worker and the simulator, in one process with its Redis and pictures in `folder`."""
    keys = folder / "keys.json"
    made = subprocess.run(
        [sys.executable, "-m", "daemon", *f"key new fuzz --tenant fuzz --scopes admin --file {keys}".split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    key = re.findall(r"pxm_\S+", made.stdout)[0]
    up = Command(
        ["up", "--metrics", "127.0.0.1:0", "--log-level", "error"],
        folder,
        PIXMILL_GATEWAY__KEYS_FILE=str(keys),
        PIXMILL_GATEWAY__LISTEN="127.0.0.1:0",
    )
    try:
        url = up.wait_for("  http  ").split()[-1]
        up.wait_for("Ctrl-C stops")
        # A request may wait for its pictures for minutes: the fuzzer has better uses for its time.
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIGURATION)),
                *("run", f"{url}/openapi.json", "--max-time", str(seconds), "--seed", str(seed)),
                *("--header", f"Authorization: Bearer {key}", "--header", "Prefer: respond-async"),
                *("--exclude-path-regex", ENDLESS),
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds + BEGINNING_S,
        )
    finally:
        up.stop()
    return Fuzzed(done.returncode, done.stdout.replace(key, "pxm_..."), up.output)


def main() -> int:
    """Run it, print what was found, and return 0 if that is nothing."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else FIVE_MINUTES_S
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), seconds)
    print(found.report)
    if found.tracebacks:
        print(found.log)
    return 1 if found.code or found.tracebacks else 0


if __name__ == "__main__":
    sys.exit(main())
