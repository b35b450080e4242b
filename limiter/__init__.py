"""Shares quotas of provider accounts among a fleet through Redis; knows nothing of jobs or pictures."""

from limiter.headers import HeaderReading, read_headers
from limiter.lag import Lag
from limiter.limiter import Limiter
from limiter.permit import Bound, Grant, Later, Penalty, Permit, QuotaState, Scale, UnitState
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
from limiter.script import LuaScript
from limiter.scripts.grants import ONE_IMAGE, NotRequested, Step
from limiter.slots import Slot, Slots
from limiter.waits import Places, Recalls

__all__ = [
    "ONE_IMAGE",
    "Bound",
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
    "NotRequested",
    "Penalty",
    "Permit",
    "Places",
    "Quota",
    "QuotaError",
    "QuotaState",
    "Recalls",
    "Scale",
    "Slot",
    "Slots",
    "Step",
    "UnitState",
    "Window",
    "parse_quota",
    "read_headers",
]
