"""A log line never holds a credential or a local variable."""

from __future__ import annotations

import errno
import io

import pytest
import structlog

from daemon.telemetry.logs import configure_logs

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
    structlog.reset_defaults()


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
    structlog.reset_defaults()
    # The renderer's own colours are its business.
    assert "\x1b]" not in written
    assert "\x1b[2J" not in written
    assert "\u202e" not in written
    assert "\nsucceeded" not in written
    assert "Traceback" in written
    assert SECRET not in written


class ClosedTerminal(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_log_line_that_nobody_can_read_any_more_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", ClosedTerminal())
    configure_logs(json=True)
    structlog.get_logger().info("draining")
    structlog.reset_defaults()
