"""Answers as JSON, and records as callers see them: with links, and without what is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response

from daemon.gateway.links import Links
from daemon.queue.views import View


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(body), status, dict(headers or {}), "application/json")


def shown(view: View, links: Links) -> dict[str, Any]:
    """A record with its id and its addresses."""
    base = links.of(view)
    urls = {"self": base, **{name: f"{base}/{name}" for name in ("events", "cancel", "explain")}}
    return {"id": view.id, **view.as_dict(), "urls": urls}
