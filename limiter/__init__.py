"""Quotas of provider accounts, shared by a fleet through Redis; knows nothing of jobs or pictures."""

from limiter.lag import Lag
from limiter.learning.headers import HeaderReading, read_headers
from limiter.limiter import ONE_IMAGE, Grant, Later, Limiter, Permit, QuotaState, UnitState
from limiter.lua import LuaScript
from limiter.permit import Penalty, Scale
from limiter.quota.quota import (
    Bucket,
    CalendarDay,
    FixedWindow,
    InFlight,
    Quota,
    QuotaError,
    Window,
    parse_quota,
)
from limiter.recalls import Recalls

__all__ = [
    "ONE_IMAGE",
    "Bucket",
    "CalendarDay",
    "FixedWindow",
    "Grant",
    "HeaderReading",
    "InFlight",
    "Lag",
    "Later",
    "Limiter",
    "LuaScript",
    "Penalty",
    "Permit",
    "Quota",
    "QuotaError",
    "QuotaState",
    "Recalls",
    "Scale",
    "UnitState",
    "Window",
    "parse_quota",
    "read_headers",
]
