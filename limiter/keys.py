"""Every Redis key of the limiter, in one place; none of them ever holds a secret.

All begin with the installation's prefix. On Redis Cluster the prefix carries a hash tag (`{pixmill}`), so the
keys of one call always share a slot. `QUOTA` below is a quota's name, which cannot contain a colon.

    PREFIX:limiter:QUOTA:log:UNIT        zset    strict window: member `GRANT:k`, score slot (µs)
    PREFIX:limiter:QUOTA:bucket:UNIT     string  token bucket, see scripts/include/bucket.lua
    PREFIX:limiter:QUOTA:leases          zset    in flight: member `GRANT REQUEST HOLDER`, score expiry (µs)
    PREFIX:limiter:QUOTA:cooldown        string  `until_us generation reason`
    PREFIX:limiter:QUOTA:pause           string  `until_us reason`; the only key that may live without a TTL
    PREFIX:limiter:QUOTA:permit:REQUEST  string  `slot_us GRANT`, for repeats of a request; at its first quota
    PREFIX:bell                          channel of the doorbell: `slot` when a lease was freed
"""

from __future__ import annotations

from typing import Final


class LimiterKeys:
    """The key names of one installation."""

    __slots__ = ("_root", "bell")

    def __init__(self, prefix: str) -> None:
        self._root: Final = f"{prefix}:limiter:"
        self.bell: Final = f"{prefix}:bell"

    def log(self, quota: str, unit: str) -> str:
        return f"{self._root}{quota}:log:{unit}"

    def bucket(self, quota: str, unit: str) -> str:
        return f"{self._root}{quota}:bucket:{unit}"

    def leases(self, quota: str) -> str:
        return f"{self._root}{quota}:leases"

    def cooldown(self, quota: str) -> str:
        return f"{self._root}{quota}:cooldown"

    def pause(self, quota: str) -> str:
        return f"{self._root}{quota}:pause"

    def permit(self, quota: str, request_id: str) -> str:
        return f"{self._root}{quota}:permit:{request_id}"
