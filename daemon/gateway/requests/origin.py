"""The trace of the request under way, which goes along with the work that it brings."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

from daemon.telemetry.tracing import traceparent_of

TRACEPARENT = "traceparent"
_NONE: Mapping[str, str] = MappingProxyType({})
_origin: ContextVar[Mapping[str, str]] = ContextVar("origin", default=_NONE)


def note_origin(header: str | None) -> str:
    """Remember where a request comes from: the span that records it, else its caller's `traceparent`; returns that."""
    traceparent = traceparent_of(header or "")
    _origin.set({TRACEPARENT: traceparent} if traceparent else _NONE)
    return traceparent


def origin() -> Mapping[str, str]:
    """The attributes that work of this request keeps and echoes, as an entry of the jobs stream has them."""
    return _origin.get()
