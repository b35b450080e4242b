"""The demo reports its own figures truthfully, and keeps its promises."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from daemon.cli.commands import demo as command
from daemon.cli.main import app as cli
from daemon.demo.run import PRODUCTS, TEMPLATE, Report, Scenario, run_demo
from daemon.demo.summary import Books, Failure, Summary, mean_service_s
from limiter.quota.quota import parse_quota
from pixmill.records.records import GroupView, Progress, View
from providers.simulator.ledger import Call, Ledger
from providers.simulator.products import product_for
from providers.simulator.settings import Rate

REFUSED = Failure("sku-017", "Rejected by the safety system.", 400, "no")
BOOKS = Books(
    calls=41, throttled=0, billed=40, billed_again=0, most_in_window=12, most_in_flight=8, service_s=1.0
)
RUN = Summary(
    pictures=40,
    failures=(REFUSED,),
    expected_failures=frozenset({"sku-017"}),
    makespan_s=20.0,
    quota=parse_quota("demo", {"images": "12/6s", "in_flight": 8}),
    books=BOOKS,
)


# The figures


def test_the_optimum_is_the_last_calls_earliest_arrival_and_one_call() -> None:
    assert RUN.last_call_s == 18.0  # calls 1-12 at 0 s, 13-24 at 6 s, 25-36 at 12 s, 37-41 at 18 s
    assert RUN.optimum_s == 19.0
    assert RUN.utilisation == pytest.approx(19 / 20)


def test_calls_too_many_do_not_make_the_optimum_look_longer() -> None:
    wasteful = replace(RUN, books=replace(BOOKS, calls=90, throttled=49))
    assert wasteful.optimum_s == RUN.optimum_s


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"failures": ()}, ["sku-017 has a picture, and should have been refused."]),
        (
            {"failures": (replace(REFUSED, id="sku-001"),)},
            [
                "sku-001 has no picture, and should have one.",
                "sku-017 has a picture, and should have been refused.",
            ],
        ),
        (
            {"failures": (REFUSED, replace(REFUSED, id="sku-001"))},
            ["sku-001 has no picture, and should have one."],
        ),
        ({"books": replace(BOOKS, billed=41)}, ["The provider billed 1 picture for nothing."]),
        ({"books": replace(BOOKS, billed_again=2)}, ["The provider billed 2 pictures for nothing."]),
    ],
)
def test_a_run_with_another_failure_or_charge_has_a_sentence_for_it(
    change: dict[str, object], problems: list[str]
) -> None:
    assert RUN.problems == []
    broken = replace(RUN, **change)  # type: ignore[arg-type]  # fields by name
    assert broken.problems == problems
    assert broken.as_dict()["as_promised"] is False
    assert all(problem in "\n".join(broken.lines()) for problem in problems)


def test_a_429_is_reported_and_breaks_no_promise() -> None:
    throttled = replace(RUN, books=replace(BOOKS, calls=42, throttled=1))
    assert throttled.problems == []
    assert throttled.as_dict()["provider"]["answers_429"] == 1
    assert "counted them: 1; those calls were made again" in "\n".join(throttled.lines())


def test_the_sentences_have_the_computed_figures() -> None:
    text = "\n".join(RUN.lines())
    assert "40 pictures made, 1 failed." in text
    assert "sku-017: Rejected by the safety system. (HTTP 400, charged: no)" in text
    assert "20.0 s from handing over" in text
    assert "less than 19.0 s" in text
    assert "call 41 may arrive 18.0 s after the first" in text
    assert "Utilisation 95.0%" in text
    assert "429 answers, as the provider counted them: 0." in text
    assert "12 pictures (quota 12)" in text
    assert "8 calls in flight (quota 8)" in text
    assert "billed 40 pictures, 40 are stored: nothing was paid twice." in text


def test_the_sentences_report_what_went_wrong() -> None:
    bad = replace(RUN, books=replace(BOOKS, throttled=3, billed=42))
    text = "\n".join(bad.lines())
    assert "429 answers, as the provider counted them: 3; those calls were made again." in text
    assert "nothing was paid twice" not in text
    assert "2 PAID FOR NOTHING" in text
    assert "3 429" in bad.headline()
    assert "2 paid twice" in bad.headline()


def test_the_document_has_the_same_figures() -> None:
    document = json.loads(json.dumps(RUN.as_dict()))
    assert document["as_promised"] is True
    assert (document["makespan_seconds"], document["optimum_seconds"], document["utilisation"]) == (
        20,
        19,
        0.95,
    )
    assert document["provider"]["answers_429"] == 0
    assert [failed["id"] for failed in document["failed"]] == ["sku-017"]


@given(
    pictures=st.integers(0, 500),
    count=st.integers(1, 50),
    period_s=st.integers(1, 60),
    service_s=st.floats(0, 30),
    slack_s=st.floats(0, 100),
)
def test_utilisation_is_at_most_one_unless_the_optimum_is_beaten(
    pictures: int, count: int, period_s: int, service_s: float, slack_s: float
) -> None:
    quota = parse_quota("demo", {"images": f"{count}/{period_s}s", "in_flight": 1000})
    run = replace(RUN, pictures=pictures, quota=quota, books=replace(BOOKS, service_s=service_s))
    run = replace(run, makespan_s=run.optimum_s + slack_s)
    assert 0 <= run.utilisation <= 1
    assert run.optimum_s >= run.last_call_s


def test_the_books_are_read_from_the_providers_own_ledger() -> None:
    now, arrived = iter([0, 1, 1.5, 4.5, 2, 2, 9, 10.0]).__next__, iter([0, 1.5, 2, 9.0]).__next__
    ledger = Ledger(now, arrived)
    for prompt, status, billed in (("a", 200, 1), ("b", 200, 1), ("c", 429, 0), ("b", 200, 1)):
        call = ledger.arrive("key", prompt, b"", 1)
        if status == 200:
            ledger.admit(call)
        ledger.end(call)
        call.status, call.billed = status, billed
    document = ledger.summary([6.0]) | {"entries": ledger.entries()}
    assert Books.of(json.loads(json.dumps(document)), 6.0) == Books(
        calls=4, throttled=1, billed=3, billed_again=1, most_in_window=2, most_in_flight=1, service_s=5 / 3
    )


def test_the_mean_call_is_one_that_made_a_picture() -> None:
    made = Call(0.0, "k", "a", "h", 1, billed=1, ended_at_s=2.0)
    refused_at_once = Call(0.0, "k", "b", "h", 1, ended_at_s=0.001)
    assert mean_service_s([asdict(made), asdict(refused_at_once)]) == 2.0
    assert mean_service_s([asdict(refused_at_once)]) == 0.0


# The shipped file


def test_the_shipped_file_has_forty_products_and_one_refused_row() -> None:
    items = Scenario().items()
    assert [item["id"] for item in items] == [f"sku-{number:03d}" for number in range(1, 42)]
    assert Scenario().moderated() == {"sku-017"}
    assert len({item["prompt"] for item in items}) == 41
    assert {item["size"] for item in items} == {"1024x1024", "1536x1024", "1024x1536"}


def test_the_simulator_draws_each_kind_of_product() -> None:
    with PRODUCTS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] != "sku-017"]
    prompts = [TEMPLATE.format(**row) for row in rows]
    # A prompt without a word that it knows gets any product, another one for another choice.
    assert all(product_for(prompt, 0) is product_for(prompt, 1) for prompt in prompts)
    assert len({product_for(prompt, 0) for prompt in prompts}) == 12


# A run


class Shown:
    """Remembers the lines of a display."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.bounds: set[str | None] = set()

    def __call__(self, view: View, progress: Progress) -> None:
        assert isinstance(view, GroupView)
        self.done.append(view.counts.ended)
        self.bounds.add(progress.bound)


@pytest.fixture
def small(tmp_path: Path) -> Scenario:
    """Eight small products and one that is refused, six in five seconds."""
    rows = [
        f"sku-{number},lamp,blue,{'forbidden' if number == 3 else f'oak{number}'},64x64"
        for number in range(1, 10)
    ]
    file = tmp_path / "small.csv"
    file.write_text("\n".join(["id,title,color,material,size", *rows]))
    return Scenario(products=file, images=Rate(6, 5.0), in_flight=4, latency_s=(0.1, 0.2))


@pytest.mark.timed
async def test_every_harmless_row_gets_one_picture_and_the_moderated_one_fails_alone(
    small: Scenario, tmp_path: Path
) -> None:
    shown = Shown()
    report = await run_demo(tmp_path / "out", scenario=small, show=shown)
    summary = report.summary
    assert summary.books.throttled == 0
    assert summary.books.most_in_window == 6
    assert summary.books.calls == 9
    assert summary.problems == []
    assert [failure.id for failure in summary.failures] == ["sku-3"]
    assert "safety system" in summary.failures[0].message
    assert 5.0 < summary.optimum_s <= summary.makespan_s < 5.0 + 5.0
    assert shown.done == sorted(shown.done)
    assert shown.done[-1] == 9
    assert "quota:simulator.images" in shown.bounds
    await asyncio.to_thread(_look_at_files, report, small)


class Greedy(Scenario):
    """Its sender believes in a higher quota than the provider's."""

    @property
    def quota(self) -> dict[str, object]:
        return {"images": "100/5s", "in_flight": 4}


async def test_a_429_costs_time_and_no_picture(small: Scenario, tmp_path: Path) -> None:
    greedy = Greedy(small.products, Rate(6, 3.0), 4, (0.1, 0.2))
    summary = (await run_demo(tmp_path / "out", scenario=greedy)).summary
    assert summary.books.throttled > 0
    assert (summary.pictures, summary.problems) == (8, [])


def _look_at_files(report: Report, scenario: Scenario) -> None:
    made = {f"sku-{number}.png" for number in range(1, 10) if number != 3}
    others = {"contact-sheet.png", "manifest.json", scenario.products.name}
    assert {path.name for path in report.out.iterdir()} == made | others
    assert len({(report.out / name).read_bytes() for name in made}) == 8
    with Image.open(report.sheet) as sheet:
        sheet.load()
        assert sheet.width <= 1600
    assert report.kept is None


async def test_pixmill_up_finds_a_kept_run(
    small: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    quick = replace(small, images=Rate(100, 1.0))
    first = await run_demo(tmp_path / "out", scenario=quick, keep=True)
    second = await run_demo(tmp_path / "out", scenario=quick)  # over the files of the first one
    assert second.summary.pictures == first.summary.pictures == 8
    assert first.kept is not None
    assert list(tmp_path.glob("pixmill-demo-*")) == [first.kept]  # noqa: ASYNC240 - a small local directory
    assert (first.kept / ".pixmill" / "redis" / "server.json").is_file()
    assert json.loads((first.kept / "ledger.json").read_text())["calls"] == 9
    assert len(list((first.kept / ".pixmill" / "images").rglob("sku-*.png"))) == 8


# The command


def test_a_demo_that_keeps_its_promises_prints_them_and_ends_well(
    small: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Scenario", lambda: replace(small, images=Rate(100, 1.0)))
    ended = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    assert "8 pictures" in ended.output
    assert "pixmill batch" in ended.output
    assert (tmp_path / "out" / "contact-sheet.png").is_file()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory for temporary files of a demo."""
    place = tmp_path / "tmp"
    place.mkdir()
    return place


@asynccontextmanager
async def running_demo(place: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A demo whose items run, and the process of its Valkey."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon", "demo", *options, "--out", str(place.parent / "out")),
        env={**os.environ, "TMPDIR": str(place)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        async for line in process.stderr:
            if b"running" in line:
                break
        yield process, server_below(place)


def server_below(place: Path) -> int:
    (note,) = place.rglob("server.json")
    server: int = json.loads(note.read_text())["pid"]
    return server


def children_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_terminated_demo_leaves_no_server_and_no_directory(place: Path) -> None:
    async with running_demo(place, "--json") as (process, server):
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    assert process.returncode == 130
    assert out == b""  # no half of a document
    assert await asyncio.to_thread(lambda: [*place.iterdir()]) == []
    assert not is_there(server)


async def test_a_second_ctrl_c_leaves_no_server_and_claims_nothing(place: Path) -> None:
    async with running_demo(place, "--json", "--page") as (process, server):
        providers = children_of(process.pid) - {server}
        for pid in providers:
            os.kill(pid, signal.SIGSTOP)  # so its calls last, and the demo waits for them
        try:
            while process.returncode is None:
                process.send_signal(signal.SIGINT)
                await asyncio.sleep(0.1)
        finally:
            for pid in providers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        out, rest = await process.communicate()
        while is_there(server):
            await asyncio.sleep(0.02)
    assert process.returncode == 130
    assert b"Stopped" not in out + rest
