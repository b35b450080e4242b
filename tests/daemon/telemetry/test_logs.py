"""A log line never holds a credential or a local variable."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import json
import logging

import pytest
import structlog

from daemon.queue.messages import Claimed
from daemon.telemetry.logs import TRACE_ID, WORK, configure_logs

SECRET = "sk-planted-4f9a8b7c6d5e4f3a2b1c"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_planted_secret_reaches_no_log_line(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=as_json)
    log = structlog.get_logger()
    log.info(
        "a call",
        header=f"Authorization: Bearer {SECRET}",
        url=f"https://cdn.example/a.png?signature={SECRET}",
        error=ValueError(f"api_key={SECRET}"),
        listed=[f"Bearer {SECRET}"],
    )

    def fails(key: str) -> None:
        raise RuntimeError("it fails beside a key")

    try:
        fails(SECRET)
    except RuntimeError:
        log.exception("failed")
    written = capsys.readouterr().err
    assert "a call" in written
    assert "it fails beside a key" in written
    assert SECRET not in written


@pytest.mark.parametrize("as_json", [True, False])
def test_a_log_line_holds_nothing_that_a_terminal_obeys(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(json=as_json)
    log = structlog.get_logger()
    log.info("a call", message="no\x1b]52;c;aGk=\x07\nsucceeded \u202egnp")

    def fails() -> None:
        raise RuntimeError(f"\x1b[2J Bearer {SECRET}")

    try:
        fails()
    except RuntimeError:
        log.exception("failed")
    written = capsys.readouterr().err
    # The renderer's own colours are its business.
    assert "\x1b]" not in written
    assert "\x1b[2J" not in written
    assert "\u202e" not in written
    assert "\nsucceeded" not in written
    assert "Traceback" in written
    assert SECRET not in written


@pytest.mark.parametrize("as_json", [True, False])
async def test_an_error_that_nobody_retrieved_is_cleaned_like_our_own(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(json=as_json)

    async def fails() -> None:
        raise RuntimeError(f"\x1b]52;c;aGk=\x07 Bearer {SECRET}")

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    del task
    gc.collect()
    written = capsys.readouterr().err
    assert "Task exception was never retrieved" in written
    assert "RuntimeError" in written
    assert "\x1b]" not in written
    assert SECRET not in written


@pytest.mark.parametrize("name", ["uvicorn.error", "asyncio", "a_library"])
def test_what_a_library_logs_is_cleaned_and_appears_once(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(json=True)
    configure_logs(json=True)
    logging.getLogger(name).warning("it met %s", f"\x1b[2J Bearer {SECRET}")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"].startswith("it met \\x1b[2J")
    assert SECRET not in line


def test_a_library_with_levels_of_its_own_or_a_broken_call_is_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.getLogger().handlers = []  # the test runner's own raise at a broken call
    configure_logs(json=True)
    logging.getLogger("a_library").log(35, "near an error")
    logging.getLogger("a_library").error("%d pictures", "seven")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("warning", "near an error"),
        ("error", "%d pictures"),
    ]


class ClosedTerminal(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_log_line_that_nobody_can_read_any_more_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", ClosedTerminal())
    configure_logs(json=True)
    structlog.get_logger().info("draining")


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEAD = """"job":"mugs","item":"mugs.2","cloudevent":{"traceparent":"00-%s-00f067aa0ba902b7-01"}"""


@pytest.mark.parametrize(
    ("uid", "head", "names"),
    [
        ("shop//mugs.2", HEAD % TRACE, {"item": "shop//mugs.2", "job": "mugs", "trace_id": TRACE}),
        ("shop/b1/a", '"job":"a"', {"item": "shop/b1/a", "job": "a", "batch": "b1"}),
        # A producer chose these texts.
        ("shop//a", HEAD % "no trace", {"item": "shop//a", "job": "mugs"}),
        ("shop//a", '"traceparent" cut', {"item": "shop//a", "job": "a"}),
        ("shop//a", '"cloudevent":"traceparent","traceparent":1', {"item": "shop//a", "job": "a"}),
    ],
)
async def test_a_line_of_a_run_names_its_job_batch_and_trace(
    uid: str, head: str, names: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(json=True)

    async def run() -> None:
        WORK.set(Claimed(uid, "normal", "queue", "1-0", "1", b"{}", 1, head=head))
        structlog.get_logger().info("late")

    await asyncio.create_task(run())
    structlog.get_logger().info("not of a run")
    of_run, other = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {name: of_run[name] for name in of_run.keys() - {"level", "timestamp", "event"}} == names
    assert other.keys() == {"level", "timestamp", "event"}


async def test_a_line_names_the_trace_that_is_recorded_rather_than_the_producers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(json=True)

    async def run() -> None:
        WORK.set(Claimed("shop/b1/a", "normal", "queue", "1-0", "1", b"{}", 1, head=HEAD % TRACE))
        TRACE_ID.set("0af7651916cd43dd8448eb211c80319c")
        structlog.get_logger().info("late", job="of the line")

    await asyncio.create_task(run())
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["trace_id"], line["job"]) == ("0af7651916cd43dd8448eb211c80319c", "of the line")
