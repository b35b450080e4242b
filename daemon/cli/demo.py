"""`pixmill demo`: a batch from a CSV file, start to finish, with nothing to install, configure or pay."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.exits import ALL_WELL, INTERRUPTED
from daemon.cli.output import Printer
from daemon.cli.session import JsonOption

if TYPE_CHECKING:
    from daemon.demo.run import Report

NOT_AS_PROMISED = 1
HELP = """Make 41 products of a CSV file into pictures at a simulated provider, and say how it went.

It brings its own Redis and its own provider in a temporary directory, takes about 20 s, and needs no configuration.
Exit code: 0 if exactly the one item failed that has to, without a 429 and with nothing paid twice; else 1.

    pixmill demo --out pixmill-demo
"""


def register(app: typer.Typer) -> None:
    app.command("demo", help=HELP)(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Where the pictures and the contact sheet go.")] = Path(
        "pixmill-demo"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's Redis and object store.")] = False,
    as_json: JsonOption = False,
) -> None:
    import uvloop

    from daemon.demo.run import DemoError
    from daemon.service import EXPECTED_ERRORS
    from daemon.telemetry.logs import configure_logs

    configure_logs(level="error")
    printer = Printer(as_json)
    try:
        code = uvloop.run(_demo(printer, out, keep, as_json))
    except (KeyboardInterrupt, asyncio.CancelledError):
        printer.error("Stopped; nothing is left running.")
        code = INTERRUPTED
    except (*EXPECTED_ERRORS, DemoError) as error:
        printer.error(str(error))
        if as_json:
            printer.document({"error": {"message": str(error)}})
        code = NOT_AS_PROMISED
    raise typer.Exit(code)


async def _demo(printer: Printer, out: Path, keep: bool, as_json: bool) -> int:
    from daemon.cli import output
    from daemon.demo.run import Scenario, run_demo

    _leave_in_order()
    scenario = Scenario()
    printer.line(scenario.told())
    display = output.display(printer, as_json=as_json)
    try:
        report = await run_demo(out, scenario=scenario, keep=keep, show=display.show)
    finally:
        display.close()
    if as_json:
        printer.document(_document(report))
    else:
        for line in [*report.summary.lines(), *_next_steps(report)]:
            printer.line(line)
    return ALL_WELL if report.summary.as_promised else NOT_AS_PROMISED


def _leave_in_order() -> None:
    """A termination is a cancellation, as Ctrl-C is: the embedded server must not outlive us."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _next_steps(report: Report) -> list[str]:
    from daemon.demo.run import TEMPLATE

    lines = [f"Pictures, manifest.json and products.csv are in {report.out}; look at {report.sheet}."]
    if report.kept is not None:
        lines.append(
            f"Its Redis and store are in {report.kept}; `cd` there and `pixmill up` brings them back."
        )
    return [
        *lines,
        "Next: run `pixmill up`, and in another terminal",
        f'  pixmill batch {report.out / "products.csv"} --prompt-template "{TEMPLATE}" --watch --out pictures',
    ]


def _document(report: Report) -> dict[str, object]:
    return {
        **report.summary.as_dict(),
        "out": str(report.out),
        "contact_sheet": str(report.sheet),
        "kept": None if report.kept is None else str(report.kept),
    }
