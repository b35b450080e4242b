"""Standard output and error whose reader may leave: a pipe into `head`, a terminal that was closed.

A BrokenPipeError is a ConnectionError as well: raised by a line of the log, it would look as if Redis did not answer.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TextIO


class NoReaderError(Exception):
    """Nobody reads the output any more, as after `| head -1`: a command ends without a word."""


class Unbroken:
    """A stream for `print` of a process that goes on when nobody reads its output any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()
