"""`python -m tests.deploy.fleet`: each alert's cause and each panel's value, on a real fleet with a real Prometheus.

`--all` brings the fleet into five broken states, and back as the runbook says. `--break STATE` leaves that to you.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.deploy.files import alerts
from tests.deploy.fleet.causes import break_and_mend, drive, end
from tests.deploy.fleet.prometheus import is_there
from tests.deploy.fleet.report import PATIENCE_S, Watch, faults_of
from tests.deploy.fleet.stage import Stage
from tests.deploy.fleet.states import STATES
from tests.e2e.processes import wait_until

BEGAN = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.fleet", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--all", action="store_true", help="break it in five ways, and mend it")
    choice.add_argument(
        "--break", dest="state", choices=STATES, help="break it, and wait until you have mended it"
    )
    given = parser.parse_args()
    if not is_there():
        print("Skipped: there is no `prometheus` on PATH; on Debian: apt install prometheus.")
        return 0
    if given.state:
        return practise(given.state)
    return mend_all() if given.all else check()


def check() -> int:
    """Drive a fleet through every trouble, and print what its Prometheus sees."""
    with staged(aof=False) as (stage, watch):
        drive(stage, watch)
        faults = faults_of(watch.prometheus, say)
        end(stage, watch)
        for name, state in watch.prometheus.alert_states().items():
            say(f"alert  {name}: {state} with its own duration and times")
    faults += [f"alert {name} was never true" for name in alerts() if name not in watch.seen]
    say("\n".join(faults) or "Every alert saw its cause, and every panel has data.")
    return int(bool(faults))


def mend_all() -> int:
    """Try the steps of the runbook on each broken state."""
    with staged(aof=True) as (stage, watch):
        break_and_mend(stage, watch, STATES)
    say("Every state was mended.")
    return 0


def practise(name: str) -> int:
    """Break a fleet, show its alert, and wait until a person has mended it."""
    state = STATES[name]
    with staged(aof=True) as (stage, watch):
        state.break_(stage)
        watch(state.alert)
        for line in (
            state.alert,
            *wait_until(lambda: watch.prometheus.texts(state.alert), PATIENCE_S).values(),
        ):
            say(line)
        say(state.world)
        say(f"cd {stage.directory}; export REDIS_URL={stage.server.url}  # pixmill.toml is there")
        say(f"HOST:9108 of the replicas: {', '.join(f'127.0.0.1:{port}' for port in stage.ports)}")
        say(f"Prometheus: {watch.prometheus.url}. A replica that ends is started again.")
        is_back = False
        with suppress(KeyboardInterrupt):
            while True:
                stage.supervise()
                if not is_back and (is_back := state.is_back(stage)):
                    say("The fleet is back. Ctrl-C ends it.")
                time.sleep(0.5)
    return int(not is_back)


@contextmanager
def staged(*, aof: bool) -> Iterator[tuple[Stage, Watch]]:
    directory = Path(tempfile.mkdtemp(prefix="pixmill-fleet-"))
    stage = Stage(directory, aof=aof)
    try:
        assert stage.prometheus is not None
        yield stage, Watch(stage.prometheus, say)
    finally:
        stage.close()
        shutil.rmtree(directory, ignore_errors=True)


def say(line: str) -> None:
    print(f"{time.monotonic() - BEGAN:5.1f} s", line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
