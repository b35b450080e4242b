"""How a command ends: its exit codes (contract: command line), and the error that ends it early."""

from __future__ import annotations

from typing import Any

ALL_WELL, USAGE, PARTLY, FAILED, CANCELLED, INTERRUPTED = 0, 2, 3, 4, 5, 130


class CommandError(Exception):
    """A command ends here: a sentence, and the exit code."""

    def __init__(self, message: str, exit_code: int = FAILED, **details: Any) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details
