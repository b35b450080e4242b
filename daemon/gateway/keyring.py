"""The keys of callers. Without keys, only this machine is served, and needs none."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request

from daemon.gateway.access import LOCAL, Caller


class KeyRing:
    """The keys of `gateway.keys_file`; None: no keys."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def is_open(self) -> bool:
        """Whether no key is needed, since only this machine is served."""
        return self._path is None

    def caller_of(self, _: Request) -> Caller:
        """The caller of a request. Raises Problem 401 without a valid key or session."""
        return LOCAL
