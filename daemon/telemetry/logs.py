"""Logging: lines for people on a terminal, JSON elsewhere, always on stderr, never with a secret.

Prompts are not logged; a key, a signed URL or a password that reaches a log call by accident is removed here.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from providers.errors import redact


def configure_logs(*, level: str = "info", json: bool | None = None) -> None:
    """Set up structlog for this process; with `json` None, a terminal gets lines for people."""
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        # Plain tracebacks: the rich ones show local variables, and those hold prompts and keys.
        else structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
    )
    # A traceback becomes text before the redaction, which only handles text.
    tail = [structlog.processors.format_exc_info, redact_values] if as_json else [redact_values]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tail,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Surviving(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    # Libraries log URLs at INFO, and URLs carry signatures.
    for name in ("httpx2", "httpcore2", "uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Surviving(io.TextIOBase):
    """An output whose reader may be gone, as after the end of a terminal: a lost log line must not end a paid call."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def write(self, text: str, /) -> int:
        with suppress(OSError, ValueError):
            self._output.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._output.flush()


def redact_values(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove everything that looks like a credential from the values of a log line."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
        elif isinstance(value, (BaseException, list, tuple, dict)):
            event[key] = redact(str(value))
    return event
