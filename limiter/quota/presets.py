"""Lists published limits of provider accounts in their TOML form, each with the page that states it.

Each limit is on a vendor's page or on one that quotes it. Limits that a console shows for each account (OpenAI's
tiers, TokenHub's calls a minute) must be copied from there. If a page does not say when its day begins, the preset
is a window of 24 hours, which is safe for any beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Preset:
    """Limits by field, their source, and the month in which they were read there."""

    limits: Mapping[str, object]
    source: str
    as_of: str
    note: str = ""


PRESETS: Final[Mapping[str, Preset]] = {
    "tencent-hunyuan": Preset(
        {"in_flight": 1, "requests": "20/s"},
        "cloud.tencent.com/document/api/1729/105970 and 1668/124632",
        "2026-11",
        "One submitted job by default and 20 calls a second, for each sub-account and region; jobs can be bought.",
    ),
    "modelscope-zimage": Preset(
        {"requests": "500/d"},
        "docs.cherry-ai.com, ModelScope",
        "2026-11",
        "Free calls a day for one model (2000 for the account, fewer for some models); credits may end sooner.",
    ),
    "openrouter-free": Preset(
        {"requests": ["20/min", "50/d"]},
        "openrouter.ai/docs, limits",
        "2026-11",
        "Models whose name ends in :free, for accounts that have bought fewer than 10 credits.",
    ),
    "openrouter-free-with-credits": Preset(
        {"requests": ["20/min", "1000/d"]},
        "openrouter.ai/docs, limits",
        "2026-11",
        "Models whose name ends in :free, for accounts that have bought 10 credits or more.",
    ),
}
