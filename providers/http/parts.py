"""Writes parts of a chunked answer to its connection at once, for an app that has one part for many connections.

By ASGI alone, each part of each answer costs a turn of a task, some coroutines and h11's framing: twice as much.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

SCOPE_WRITE: Final = "pixmill.write"  # the name among the extensions of a request's scope


def part_writer(cycle: Any) -> dict[str, Callable[[bytes], bool]]:
    """The extension for a request of uvicorn; none where no answer is chunked.

    It sends a part that is not empty, in an answer without a length that has begun. While the client reads too slowly,
    or once it has gone, it returns False and sends nothing: `send` then waits, or does nothing.
    """
    scope = cycle.scope
    if scope["http_version"] != "1.1" or scope["method"] == "HEAD":
        return {}
    return {SCOPE_WRITE: partial(_write, cycle)}


def _write(cycle: Any, part: bytes) -> bool:
    is_under_way = cycle.response_started and not cycle.response_complete
    if not is_under_way or cycle.flow.write_paused or cycle.transport.is_closing():
        return False
    # h11 keeps no state within a chunked body, so it need not know.
    try:
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
    except (OSError, RuntimeError):
        return False  # the connection broke just now, which must not end the part of all others
    return True
