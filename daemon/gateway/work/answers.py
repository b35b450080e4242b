"""Answers as JSON, and records as callers see them: with links, and without what is ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response

from daemon.gateway.answering.problems import response_of
from daemon.gateway.estimate import UNKNOWN, Outlook
from daemon.gateway.work.links import Links
from pixmill.records.views import ItemView, View

LOOK_AGAIN_S = 30  # at most
EVENT_ID = "Pixmill-Event-Id"  # of a list: what happened after it follows at `events?after=`
REQUEST_FIELDS = ("prompt", "negative_prompt", "seed", "size", "params")


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return response_of(body, status, headers or {}, "application/json")


def shown(
    view: View, links: Links, outlook: Outlook = UNKNOWN, members: Sequence[ItemView] = ()
) -> dict[str, Any]:
    """A record with its id, its outlook and its addresses; `members` are the pictures of a job of several."""
    record = {"id": view.id, **view.as_dict(), **outlook.as_dict()}
    if isinstance(view, ItemView):
        record["images"] = images_of(view, links)
        record |= _requested(view)
    elif view.kind == "job":
        errors = [item.error for item in members if item.error]
        record |= {
            "job": view.id,
            "images": [image for item in members for image in images_of(item, links)],
            "attempts": max((item.attempts for item in members), default=0),
            "error": errors[0] if errors else None,
            **(_requested(members[0]) if members else {}),
        }
    return {**record, "urls": links.urls(view)}


def _requested(item: ItemView) -> dict[str, Any]:
    """The request of an item; the first picture of several has the seed of its job."""
    fields = {name: item.spec.get(name) for name in REQUEST_FIELDS}
    return {**fields, "max_attempts": item.max_attempts}


def images_of(item: ItemView, links: Links) -> list[dict[str, Any]]:
    """The pictures of an item, at this gateway's addresses: those of the store may need credentials, or expire."""
    return [
        {
            **image,
            "url": links.image(item, k),
            "thumb_url": links.thumb(item, k) if image.get("thumb_url") else None,
        }
        for k, image in enumerate(item.images)
    ]


def look_again_s(eta_s: float | None, unknown_s: int = 1) -> int:
    """When to look again at work that goes on: the value of `Retry-After`, 1 to 30 s."""
    return unknown_s if eta_s is None else min(LOOK_AGAIN_S, max(1, math.ceil(eta_s)))


def charged(items: Sequence[ItemView]) -> str:
    """Whether the provider takes money for these items: yes, maybe, or no. A call under way may cost money."""
    calls = [kind for item in items for kind, count in item.calls.items() if count]
    if "yes" in calls:
        return "yes"
    under_way = any(item.state in ("running", "held") for item in items)
    return "maybe" if under_way or "maybe" in calls else "no"


def accepted(ident: str, state: str, outlook: Outlook, urls: Mapping[str, Any]) -> dict[str, Any]:
    """The answer for new work: what it is called, what lies before it, and where to look."""
    known = outlook.as_dict()
    del known["next_slot_at"]
    return {"id": ident, "state": state, **known, "urls": urls}
