"""The shapes of answers about the fleet: quotas, routes, pauses, usage, status."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from daemon.gateway.document.shapes import Example, Shape


class QuotaList(Shape):
    """Quotas in force, and the pauses over the fleet and its routes."""

    quotas: list[dict[str, Any]]
    pauses: list[dict[str, Any]]
    example: ClassVar[Example] = {
        "quotas": [
            {
                "quota": "openai-main",
                "limits": ["20 images a minute"],
                "in_flight": 3,
                "units": [{"unit": "images", "capacity": 20, "available": 6}],
                "bound": "images",
                "next_slot_seconds": 9.0,
                "paused": False,
                "paused_by": None,
            }
        ],
        "pauses": [],
    }


class RouteList(Shape):
    """The routes that jobs may name."""

    routes: list[dict[str, Any]]
    example: ClassVar[Example] = {
        "routes": [
            {
                "route": "default",
                "provider": "openai",
                "model": "gpt-image-2",
                "quotas": ["openai-main"],
                "any": [],
                "fallback": ["previews"],
                "paused": None,
            }
        ]
    }


class _Paused(Shape):
    paused: Literal[True]
    paused_by: str | None
    until: str | None


_PAUSED = {"paused": True, "paused_by": "ops", "until": None}


class QuotaPaused(_Paused):
    """A quota is paused; `until` is null for a pause that a resume ends."""

    quota: str
    example: ClassVar[Example] = {"quota": "openai-main", **_PAUSED}


class QuotaResumed(Shape):
    """`resumed` is false if it was not paused."""

    quota: str
    resumed: bool
    example: ClassVar[Example] = {"quota": "openai-main", "resumed": True}


class Paused(_Paused):
    """The fleet or a route is paused; `until` is null for a pause that a resume ends."""

    scope: Literal["fleet", "route"]
    name: str
    example: ClassVar[Example] = {"scope": "route", "name": "default", **_PAUSED}


class Resumed(Shape):
    """`resumed` is false if it was not paused."""

    scope: Literal["fleet", "route"]
    name: str
    resumed: bool
    example: ClassVar[Example] = {"scope": "route", "name": "default", "resumed": True}


class UsageList(Shape):
    """A row for each day (UTC), route and tenant with any use."""

    days: int
    usage: list[dict[str, Any]]
    example: ClassVar[Example] = {
        "days": 7,
        "usage": [
            {
                "day": "2030-01-31",
                "route": "default",
                "tenant": "default",
                "pictures": 40,
                "calls": {"no": 1, "maybe": 0, "yes": 40},
                "cost": {"USD": "1.60"},
            }
        ],
    }


class Today(Shape):
    """The pictures and the cost of today (UTC)."""

    pictures: int
    cost: dict[str, str]


class Status(Shape):
    """The installation at a glance. `oldest_wait_seconds` is 0 if nothing waits."""

    replicas: int
    oldest_wait_seconds: float
    today: Today
    example: ClassVar[Example] = {
        "replicas": 2,
        "oldest_wait_seconds": 9.5,
        "today": {"pictures": 40, "cost": {"USD": "1.60"}},
    }
