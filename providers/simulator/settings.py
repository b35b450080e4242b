"""Everything that can be set on the simulator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any `window_s` seconds. `str` and `parse` use the form "12/6s"."""

    count: int
    window_s: float

    def __post_init__(self) -> None:
        if self.count < 1 or self.window_s <= 0:
            raise ValueError("A rate needs a count of 1 or more and a window above 0 seconds.")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read "12/6s", "20/min", "500ms" windows and the like; raises ValueError with a sentence."""
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)?\s*(ms|s|min|h)\s*", text)
        if found is None:
            raise ValueError(f'{text!r} is not a rate; write it like "12/6s", "20/min" or "500/h".')
        unit_s = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}[found[3]]
        return cls(int(found[1]), float(found[2] or 1) * unit_s)

    def __str__(self) -> str:
        return f"{self.count}/{self.window_s:g}s"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket of `burst` units that gains those of `rate`, continuously; written like "8/s burst 4"."""

    rate: Rate
    burst: int

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """Read "8/s burst 4"; raises ValueError with a sentence."""
        rate, _, burst = text.partition(" burst ")
        if not burst.strip().isdecimal() or int(burst) < 1:
            raise ValueError(f'{text!r} is not a bucket; write it like "8/s burst 4".')
        return cls(Rate.parse(rate), int(burst))


# The one account of calls that are signed.
TC3_SECRET_ID = "AKIDsimulator"  # noqa: S105 (of nothing but the simulator)
TC3_SECRET_KEY = "the-simulator-has-no-secrets"  # noqa: S105 (likewise)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """Quotas hold for each API key by itself, as they do for accounts; None means no limit."""

    images: Rate | None = None
    requests: Rate | Bucket | None = None
    in_flight: int | None = None  # a task counts until it has ended
    polls: Rate | None = None
    send_retry_after: bool = True

    latency_s: tuple[float, float] = (0.8, 1.6)  # uniform between these
    timed_prompts: bool = False  # a prompt with "takes 4.2 s" takes that long, instead of `latency_s`
    api_keys: Sequence[str] | None = field(default=None, repr=False)  # None: any non-empty key
    picture_ttl_s: float = 3600.0  # how long the address of a task's picture lives
    kept_pictures: int = 512  # of tasks, the latest; an older one's address leads nowhere
    moderation_words: Sequence[str] = ("forbidden", "gore")
    plain: bool = False  # one flat colour a picture: load tests should not measure the drawing
    record_requests: bool = False  # keep requests whole, credentials too: for tests that compare clients
