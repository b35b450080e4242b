"""Providers that refuse every call and name no wait worth the name: how many calls do they get in a minute?

Run it as ``python -m benchmarks.account.wait_zero``. Two real workers, a real server, and the simulator. Each form of
a refusal has an account of its own, with its route, its quota and its key, and all of them run at once. The simulator
counts the arrivals. A right client calls ever less often; one that takes the wait at its word calls as often as its
quota allows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import redis

from benchmarks.processes import CONFIG, Provider, Worker
from tests.servers import RedisServer

WORKERS = 2
LOOK_S = 1.0
START_WITHIN_S = 60.0
MOST_CALLS = 12  # in a minute: four calls at once, then a pause that doubles from a second on
QUOTA = "in_flight = 4"
ACCOUNT = """
[credentials.{name}]
provider = "zimage"
base_url = "{base_url}"
api_key_env = "{variable}"
[routes.{name}]
credential = "{name}"
model = "Tongyi-MAI/Z-Image-Turbo"
"""


@dataclass(frozen=True, eq=False)
class Form:
    """A refusal, and the account that always gets it. `quota` is empty for a route without quotas."""

    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    words: str = ""
    kind: str = "rate_limit"
    quota: str = QUOTA
    jobs: int = 20
    most_calls: int = MOST_CALLS


ZERO = {"retry-after": "0"}
ADAPTIVE = 'images = "60/10s"\nin_flight = 4\nadaptive = true'
FORMS = (
    Form("unnamed"),
    Form("zero", ZERO),
    Form("below-zero", {"retry-after": "-5"}),
    Form("past-date", {"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}),
    Form("zero-ms", {"retry-after-ms": "0"}),
    Form("past-reset", {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1400000000"}),
    Form("zero-in-words", words="Please try again in 0s."),
    Form("always-50ms", {"retry-after-ms": "50"}),
    Form("zero-503", ZERO, kind="overloaded"),
    Form("past-date-503", {"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}, kind="overloaded"),
    Form("zero-concurrency", ZERO, kind="concurrency"),
    Form("zero-with-rate", ZERO, quota='images = "600/min"\nin_flight = 4'),
    Form("zero-adaptive", ZERO, quota=ADAPTIVE),
    Form("zero-503-adaptive", ZERO, kind="overloaded", quota=ADAPTIVE),
    # Without a quota nothing holds several jobs back together, so one job shows the growing wait.
    Form("zero-no-quota", ZERO, quota="", jobs=1),
    Form("zero-503-no-quota", ZERO, kind="overloaded", quota="", jobs=1),
    # One round, and then silence for an hour or a day.
    Form("zero-exhausted", ZERO, "Daily limit reached.", most_calls=4),
    Form("years", {"retry-after": "1e9"}, most_calls=4),
    Form("year-9999", {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, most_calls=4),
    Form("endless", {"retry-after": "1e400"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.account.wait_zero", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="counted from the first call of each form"
    )
    measured_s = parser.parse_args(arguments).seconds
    server = RedisServer()
    try:
        with tempfile.TemporaryDirectory(prefix="pixmill-zero-") as directory:
            arrivals = _arrivals(server, Path(directory), measured_s)
    finally:
        server.close()
    print(table(arrivals))
    return 0 if all(map(kept, FORMS, arrivals.values())) else 1


def kept(form: Form, arrivals: Sequence[float]) -> bool:
    """Whether the form got a first call, and not too many after it."""
    return 1 <= len(arrivals) <= form.most_calls


def table(arrivals: Mapping[str, Sequence[float]]) -> str:
    """A row for each form: its calls in the measured time, and when they came."""
    lines = [f"{'refusal':<20}{'calls':>6}  bound  at (s)"]
    for form in FORMS:
        at = arrivals[form.name]
        late = "" if kept(form, at) else "  TOO MANY" if at else "  NONE"
        shown = " ".join(f"{second:.1f}" for second in at[:20])
        lines.append(f"{form.name:<20}{len(at):>6}{form.most_calls:>7}  {shown}{late}")
    return "\n".join(lines)


def _arrivals(server: RedisServer, directory: Path, measured_s: float) -> dict[str, list[float]]:
    simulator = Provider("--latency", "0.1-0.1", "--plain")
    variables = {form.name: f"ZERO_KEY_{number}" for number, form in enumerate(FORMS)}
    config = CONFIG.format(redis_url=server.url, directory=directory) + "".join(
        _account(form, simulator.url, variables[form.name]) for form in FORMS
    )
    workers: list[Worker] = []
    try:
        for form in FORMS:
            _refuse_always(simulator, form)
        _submit(server)
        keys = {variable: f"key-{variable}" for variable in variables.values()}
        workers += (Worker(directory, config, keys) for _ in range(WORKERS))
        return _measured(simulator, workers, measured_s)
    finally:
        for worker in workers:
            worker.end()
        simulator.end()


def _account(form: Form, base_url: str, variable: str) -> str:
    text = ACCOUNT.format(name=form.name, base_url=base_url, variable=variable)
    return f'{text}quotas = ["{form.name}"]\n[quotas.{form.name}]\n{form.quota}\n' if form.quota else text


def _refuse_always(simulator: Provider, form: Form) -> None:
    fault = {
        "kind": form.kind,
        "count": 10**9,
        "prompt": _prompt(form),
        "headers": form.headers,
        "words": form.words,
    }
    address = simulator.url.removesuffix("/modelscope") + "/simulator/faults"
    httpx2.post(address, json=fault, trust_env=False, timeout=30).raise_for_status()


def _prompt(form: Form) -> str:
    return f"a kettle ({form.name})"


def _submit(server: RedisServer) -> None:
    client: Any = redis.Redis.from_url(server.url)
    for form in FORMS:
        for number in range(form.jobs):
            job = {
                "id": f"{form.name}-{number}",
                "prompt": _prompt(form),
                "route": form.name,
                "size": "512x512",
            }
            client.xadd("pixmill:jobs", {"data": json.dumps(job)})


def _measured(simulator: Provider, workers: Iterable[Worker], measured_s: float) -> dict[str, list[float]]:
    """The arrivals of each form, in seconds after its first one."""
    started = time.monotonic()
    while True:
        time.sleep(LOOK_S)
        for worker in workers:
            worker.check()
        calls = simulator.ledger(entries=True)["entries"]
        at = {form: [call["at_s"] for call in calls if call["prompt"] == _prompt(form)] for form in FORMS}
        # The simulator's clock is the monotonic one of this machine.
        began = all(at.values()) or time.monotonic() - started > START_WITHIN_S
        if began and all(time.monotonic() - seconds[0] > measured_s for seconds in at.values() if seconds):
            return {
                form.name: [second - seconds[0] for second in seconds if second - seconds[0] <= measured_s]
                for form, seconds in at.items()
            }


if __name__ == "__main__":
    sys.exit(main())
