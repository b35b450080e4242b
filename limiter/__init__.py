"""Quotas of provider accounts, shared by a fleet through Redis; knows nothing of jobs or pictures."""

from limiter.limiter import ONE_IMAGE, Grant, Later, Limiter, Permit, QuotaState, UnitState
from limiter.lua import LuaScript
from limiter.quota import Bucket, CalendarDay, InFlight, Quota, QuotaError, Window, parse_quota

__all__ = [
    "ONE_IMAGE",
    "Bucket",
    "CalendarDay",
    "Grant",
    "InFlight",
    "Later",
    "Limiter",
    "LuaScript",
    "Permit",
    "Quota",
    "QuotaError",
    "QuotaState",
    "UnitState",
    "Window",
    "parse_quota",
]
