"""Logging: lines for people on a terminal, JSON elsewhere, always on stderr, never with a secret.

Prompts are not logged; a key, a signed URL or a password that reaches a log call by accident is removed here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, TextIO, cast

import structlog

from daemon.queue.messages import Claimed
from daemon.telemetry.streams import Unbroken
from daemon.telemetry.tracing import trace_id_of
from pixmill.records.keys import Uid
from pixmill.redaction import redact
from pixmill.text import visible

WORK: ContextVar[Claimed | None] = ContextVar("work", default=None)  # the item that runs here
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")  # of the trace that is recorded here


def configure_logs(*, level: str = "info", json: bool | None = None) -> None:
    """Set up structlog for this process; with `json` None, a terminal gets lines for people."""
    configure_own_logs(level=level, json=json)
    # Libraries log URLs at INFO, and URLs carry signatures.
    for name in ("httpx2", "httpcore2", "uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    root = logging.getLogger()
    root.handlers = [*(each for each in root.handlers if not isinstance(each, _Onward)), _Onward()]


def configure_own_logs(*, level: str, json: bool | None = None) -> None:
    """Set up structlog alone: the logging of the program around us, and that of libraries, stay as they are."""
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        # Plain tracebacks: the rich ones show local variables, and those hold prompts and keys.
        else structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,  # such as the id of the request under way
            *([name_work] if as_json else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # A traceback becomes text before the redaction, which only handles text.
            structlog.processors.format_exc_info,
            redact_values,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", Unbroken(sys.stderr))),
        cache_logger_on_first_use=False,
    )


class _Onward(logging.Handler):
    """Passes what libraries log to structlog: an error that nobody retrieved can hold text of others, and secrets."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # a library's slip in its own log call
            message = str(record.msg)
        # structlog knows no levels between these.
        level = max(10, min(record.levelno // 10 * 10, 50))
        structlog.get_logger(record.name).log(level, message, logger=record.name, exc_info=record.exc_info)


def name_work(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the item, the job, the batch and the trace of a line that a run writes, as far as the line does not."""
    item = WORK.get()
    if item is None:
        return event
    named = {
        "item": item.uid,
        "job": item.job,
        "batch": Uid.parse(item.uid).batch,
        "trace_id": TRACE_ID.get() or trace_id_of(item.traceparent),
    }
    for name, value in named.items():
        if value:
            event.setdefault(name, value)
    return event


def redact_values(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove everything that looks like a credential, and what a terminal obeys, from the values of a log line."""
    for key, value in event.items():
        if isinstance(value, str | BaseException | list | tuple | dict):
            event[key] = visible(redact(str(value)), lines=key == "exception")
    return event
