"""Puts facts of records into words: why an item failed, and times."""

from __future__ import annotations

from datetime import UTC, datetime

from pixmill.records.views import ItemView


def reason(item: ItemView) -> str:
    """The error of an item. It is not why an item runs, expired or was cancelled, so there it is only the last one."""
    caused = item.state in ("failed", "held", "retry_wait", "throttled")
    return sentence(item) if caused else f"the last error: {sentence(item)}"


def sentence(item: ItemView) -> str:
    """The last error of an item, with its cost."""
    error = item.error or {}
    facts = [str(error[name]) for name in ("kind", "provider_code") if error.get(name) is not None]
    if error.get("http_status") is not None:
        facts.append(f"HTTP {error['http_status']}")
    if error.get("charged"):
        facts.append(f"charged: {error['charged']}")
    message = str(error.get("message") or "no reason is on record")
    return f"{message} ({', '.join(facts)})" if facts else message


def utc(when: datetime) -> str:
    """A time in UTC."""
    return f"{when:%Y-%m-%d %H:%M:%S}Z"


def since_s(when: datetime) -> float:
    """Seconds since a time; negative for a future time."""
    return (datetime.now(UTC) - when).total_seconds()
