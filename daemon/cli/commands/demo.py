"""`pixmill demo`: a batch from a CSV file, start to finish, with nothing to install, configure or pay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from daemon.cli.errors import ALL_WELL, INTERRUPTED, words_of
from daemon.cli.following import display_on
from daemon.cli.options import JsonOption
from daemon.cli.output import Printer
from daemon.demo.provider import DemoError
from daemon.demo.run import BATCH, TEMPLATE, Report, Scenario, run_demo
from daemon.service import EXPECTED_ERRORS
from daemon.signals import unless_leaving, until_signal
from daemon.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from daemon.broker.embedded import EmbeddedRedis
    from daemon.service import Running

NOT_AS_PROMISED = 1


def demo(
    out: Annotated[Path, typer.Option(help="The directory for the pictures and the contact sheet.")] = Path(
        "pixmill-demo"
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the demo's Redis, object store and ledger.")
    ] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Serve the page meanwhile, and afterwards until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make 41 products of a CSV file into pictures at a simulated provider, and report the result.

    It brings its own Redis and provider in a temporary directory, takes about 20 s, and needs no configuration.
    The exit code is 0 if only the one expected item failed, and nothing was paid twice; otherwise 1.
    A 429 is reported and is no failure: the call is made again.

        pixmill demo --out pixmill-demo
    """
    configure_logs(level="error")
    printer = Printer(as_json)
    try:
        code = uvloop.run(_demo(printer, out, keep, page))
    except (*EXPECTED_ERRORS, DemoError) as error:
        sentence = words_of(error) if isinstance(error, OSError) else str(error)
        printer.note(sentence)
        if as_json:
            printer.document({"error": {"message": sentence}})
        code = NOT_AS_PROMISED
    raise typer.Exit(code)


async def _demo(printer: Printer, out: Path, keep: bool, page: bool) -> int:
    servers: list[EmbeddedRedis] = []
    reports: list[Report] = []

    def end_at_once() -> None:
        for server in servers:
            server.end_at_once()

    leaving = asyncio.create_task(until_signal(end_at_once))
    scenario = Scenario()
    printer.line(scenario.outlook())
    with closing(display_on(printer)) as display:

        async def finish(report: Report) -> None:
            display.close()
            _print(printer, report)
            reports.append(report)
            if page:
                printer.note("The page stays until Ctrl-C.")
                await asyncio.Event().wait()  # the signal cancels the run

        front = partial(_page, printer) if page else None
        run = run_demo(
            out,
            scenario=scenario,
            keep=keep,
            show=display.show,
            front=front,
            finish=finish,
            on_server=servers.append,
        )
        await unless_leaving(leaving, run)
    leaving.cancel()
    if not reports:
        printer.note("Stopped; nothing is left running.")
        return INTERRUPTED
    return NOT_AS_PROMISED if reports[0].summary.problems else ALL_WELL


@asynccontextmanager
async def _page(printer: Printer, running: Running) -> AsyncIterator[None]:
    """Serve the page beside the run, and print its address."""
    from daemon.gateway.running import beside

    async with beside(running) as url:
        printer.line(f"Watch it at {url}/?batch={BATCH}")
        yield


def _print(printer: Printer, report: Report) -> None:
    document = {
        **report.summary.as_dict(),
        "out": str(report.out),
        "contact_sheet": str(report.sheet),
        "kept": None if report.kept is None else str(report.kept),
    }
    printer.answer(document, *report.summary.lines(), *_next_steps(report))


def _next_steps(report: Report) -> list[str]:
    lines = [f"Pictures, manifest.json and products.csv are in {report.out}; look at {report.sheet}."]
    if report.kept is not None:
        lines.append(
            f"Its Redis, its store and the provider's ledger.json are in {report.kept}; `cd` there and `pixmill up` "
            "brings Redis and store back."
        )
    return [
        *lines,
        "Next: run `pixmill up`, and in another terminal",
        f'  pixmill batch {report.out / "products.csv"} --prompt-template "{TEMPLATE}" --watch --out pictures',
    ]
