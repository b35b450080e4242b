r"""Every Redis key of the limiter, in one place; none of them ever holds a secret.

All begin with the installation's prefix. On Redis Cluster the prefix carries a hash tag (`{pixmill}`), so the
keys of one call always share a slot. `QUOTA` below is a quota's name, which cannot contain a colon. The polls of an
account are a quota of their own, `QUOTA.polls`, without books: those of QUOTA count them.

    PREFIX:limiter:clock                 string  the limiter's own time, see scripts/include/clock.lua
    PREFIX:limiter:QUOTA:log:UNIT        zset    strict windows: member `GRANT:k`, score slot (µs);
                                                 `@SLICE:k` after a change, see scripts/include/changed.lua
    PREFIX:limiter:QUOTA:slices:UNIT     hash    a large strict window, see scripts/include/slices.lua
    PREFIX:limiter:QUOTA:tokens:UNIT     zset    token bucket, see scripts/include/tokens.lua
    PREFIX:limiter:QUOTA:day:UNIT        hash    calendar day: units by the µs at which the day began
    PREFIX:limiter:QUOTA:fixed:UNIT      hash    windows of a known phase, see scripts/include/fixed.lua
    PREFIX:limiter:QUOTA:leases          zset    in flight: member `GRANT:k REQUEST HOLDER`, score expiry (µs)
    PREFIX:limiter:QUOTA:waiting         hash    the line of holders that wait for a lease, see
                                                 scripts/include/leases.lua
    PREFIX:limiter:QUOTA:pause           string  `until_us reason`; the only key that may live without a TTL
    PREFIX:limiter:QUOTA:cooldown        string  a provider's pause \
    PREFIX:limiter:QUOTA:places          string  fewer in flight     | see scripts/include/quota.lua
    PREFIX:limiter:QUOTA:learned         string  the learned rate    |
    PREFIX:limiter:QUOTA:others          string  use by others      |
    PREFIX:limiter:QUOTA:guard           string  a wider guard      /
    PREFIX:limiter:QUOTA:refused         zset    calls of a quota that learns which were refused: GRANT, score slot
    PREFIX:limiter:QUOTA:permit:REQUEST  string  `slot_us GRANT granted_us KEY=FIELD...`, for repeats; at its
                                                 first quota; a reservation and a late call that was refused
                                                 have `-` for granted_us
    PREFIX:limiter:spread                string  how unevenly calls arrive (µs), the most of all replicas
    PREFIX:bell                          channel of the doorbell: `slot HOLDER...` when it is their turn for a lease,
                                         `quota NAME [UNTIL_US [AFTER_US]]` when grants up to then (none: all), with
                                         a slot after AFTER_US, are recalled
"""

from __future__ import annotations

from typing import Final

from limiter.quota.limits import POLLS_OF

# The kinds of book in which limits note used units.
BOOKS: Final = ("log", "slices", "tokens", "fixed", "day")
# The strings of a quota, in the order of the scripts' arguments.
STRINGS: Final = ("pause", "cooldown", "places", "learned", "others", "guard")


class LimiterKeys:
    """The key names of one installation."""

    __slots__ = ("_root", "bell", "clock", "spread")

    def __init__(self, prefix: str) -> None:
        self._root: Final = f"{prefix}:limiter:"
        self.clock: Final = f"{self._root}clock"
        self.spread: Final = f"{self._root}spread"
        self.bell: Final = f"{prefix}:bell"

    def of(self, quota: str, *parts: str) -> str:
        """A key of the quota: `of(quota, "leases")`, `of(quota, "log", "images")`."""
        if parts[0] in BOOKS:
            quota = quota.removesuffix(POLLS_OF)
        return f"{self._root}{quota}:{':'.join(parts)}"

    def books(self, quota: str, unit: str) -> tuple[str, ...]:
        """The unit's book of each kind; its limits use some of them."""
        return tuple(self.of(quota, kind, unit) for kind in BOOKS)

    def strings(self, quota: str) -> tuple[str, ...]:
        """The quota's STRINGS."""
        return tuple(self.of(quota, name) for name in STRINGS)
