"""`python -m providers.simulator`: the simulator as a process of its own, until SIGTERM, Ctrl-C or its parent's end."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from providers.simulator.faults import FaultKind
from providers.simulator.server import Simulator
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY, Bucket, Rate, SimulatorSettings

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve."""
    given = vars(_parser().parse_args(arguments))
    host, port, until_stdin_closes = given.pop("host"), given.pop("port"), given.pop("until_stdin_closes")
    # The other options are settings; one that is left out keeps the setting's default.
    settings = SimulatorSettings(**{name: value for name, value in given.items() if value is not None})
    try:
        asyncio.run(_serve(Simulator(settings, host=host, port=port), until_stdin_closes))
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)
        return 1
    return 0


async def _serve(simulator: Simulator, until_stdin_closes: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), stopped.set)
    async with simulator:
        print(f"The simulator listens on {simulator.base_url}", flush=True)
        await stopped.wait()
        if until_stdin_closes:
            loop.remove_reader(sys.stdin.fileno())  # a closed input would wake the loop again and again


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m providers.simulator",
        description="A simulated image provider with enforced quotas: the wires of OpenAI, OpenRouter, ModelScope and "
        "Hunyuan.",
        epilog=f"Signed calls (wire tc3) use the secret id {TC3_SECRET_ID} and the secret key {TC3_SECRET_KEY}. "
        "Faults on demand: POST /simulator/faults with "
        '{"kind": "rate_limit", "count": 3, "retry_after_s": 2, "prompt": "kettle"}; the kinds are '
        f"{', '.join(FaultKind)}. GET /simulator/ledger has the provider's books.",
    )
    option, rate = parser.add_argument, partial(_parsed, Rate.parse)
    option("--host", default="127.0.0.1")
    option("--port", type=int, default=9200, help="0 takes a free one")
    option("--images", type=rate, metavar="N/PERIOD", help='pictures per key, like "12/6s"')
    option(
        "--requests",
        type=partial(_parsed, _rate_or_bucket),
        metavar="N/PERIOD",
        help='calls per key; "8/s burst 4" is a token bucket',
    )
    option("--in-flight", type=int, metavar="N", help="parallel calls, and tasks that run, per key")
    option("--polls", type=rate, metavar="N/PERIOD", help="polls of tasks per key")
    option(
        "--no-retry-after",
        dest="send_retry_after",
        action="store_false",
        help="leave the Retry-After header out of a 429",
    )
    option(
        "--latency",
        dest="latency_s",
        type=partial(_parsed, _span),
        metavar="MIN-MAX",
        help="seconds a picture",
    )
    option("--timed-prompts", action="store_true", help='a prompt with "takes 4.2 s" takes that long')
    option(
        "--api-key", dest="api_keys", action="append", metavar="KEY", help="serve this key only; repeatable"
    )
    option("--until-stdin-closes", action="store_true", help="end with the process that holds the other end")
    option("--plain", action="store_true", help="one flat colour a picture, for load tests")
    option("--kept-pictures", type=int, metavar="N", help="of tasks, the latest; 512")
    return parser


def _rate_or_bucket(text: str) -> Rate | Bucket:
    return Bucket.parse(text) if "burst" in text else Rate.parse(text)


def _span(text: str) -> tuple[float, float]:
    least, _, most = text.partition("-")
    span = float(least), float(most or least)
    if not 0 <= span[0] <= span[1]:
        raise ValueError('A latency is written like "0.8-1.6": seconds, the smaller one first.')
    return span


def _parsed(parse: Callable[[str], T], text: str) -> T:
    """Let argparse show the sentence of a ValueError instead of a general one."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
