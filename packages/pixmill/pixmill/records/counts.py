"""The counts of a batch."""

from __future__ import annotations

from typing import NamedTuple


class GroupCounts(NamedTuple):
    """Counts of a batch's members by state; they sum to `total`."""

    gid: str
    head: str
    total: int
    queued: int
    throttled: int
    retry_wait: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    held: int

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.expired

    def by_state(self) -> dict[str, int]:
        """The counts by the names of the contract's events and answers."""
        return {name: value for name, value in self._asdict().items() if name not in {"gid", "head"}}
