"""The routes and quotas of a replica as JSON, for commands that run without its configuration."""

from __future__ import annotations

import json

from pydantic import ValidationError

from daemon.settings.model import Settings


def pace_as_json(settings: Settings) -> str:
    """The routes and quotas; they name credentials and hold none."""
    named = {"credential", "model", "quotas", "any", "fallback"}
    routes = {name: route.model_dump(include=named) for name, route in settings.routes.items()}
    return json.dumps({"routes": routes, "quotas": settings.quotas})


def with_pace_of(settings: Settings, pace: bytes) -> Settings:
    """The settings with the routes and quotas of `pace`; unchanged if a newer version wrote what we cannot read."""
    try:
        read = Settings.model_validate_json(pace)
    except ValidationError:
        return settings
    return settings.model_copy(update={"routes": read.routes, "quotas": read.quotas})
