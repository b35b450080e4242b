"""The items of a batch as a list."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request, Response

from daemon.gateway.answering.problems import bad_parameter
from daemon.gateway.batches.pages import items_of
from daemon.gateway.callers.access import Reader
from daemon.gateway.gateway import Here
from daemon.gateway.requests.parameters import one_of, whole_number
from daemon.gateway.work.answers import EVENT_ID, answer
from daemon.gateway.work.finding import find_batch
from daemon.gateway.work.links import Links
from pixmill.broker.streams import tail
from pixmill.records.counts import GroupCounts
from pixmill.records.records import ItemView

router = APIRouter(tags=["batches"])

LISTED, MOST_LISTED = 100, 1000
PROMPT_SHOWN = 500  # characters of a prompt that a list shows; the record of the item has all of it
STATES = tuple(name for name in GroupCounts._fields if name not in ("gid", "head", "total"))


@router.get("/v1/batches/{ident}/items")
async def items(
    request: Request,
    here: Here,
    caller: Reader,
    ident: str,
    state: str | None = None,
    kind: str | None = None,
    cursor: str | None = None,
    limit: str | None = None,
    tenant: str | None = None,
) -> Response:
    """The items of a batch, by pages: `next` is the cursor of the next one.

    The header `Pixmill-Event-Id` names an event such that this page shows at least what came before it.
    """
    if kind is not None and not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", kind):
        raise bad_parameter("kind", "`kind` must be a kind of error, such as moderation_input.")
    most = whole_number("limit", limit, LISTED, 1, MOST_LISTED)
    wanted = one_of("state", state, STATES)
    newest = await tail(here.redis, here.keys.events)
    batch = await find_batch(here, caller.tenant_for(tenant), ident)
    found, following = await items_of(here, batch, state=wanted, kind=kind, cursor=cursor, limit=most)
    links = Links.of_tenant(request, caller, batch.tenant)
    content = {"items": [_slim(item, links) for item in found], "next": following}
    return answer(content, headers={EVENT_ID: newest})


def _slim(item: ItemView, links: Links) -> dict[str, Any]:
    record = item.as_dict()
    thumb = next((image for image in item.images if image.get("thumb_url")), None)
    picture = item.images[0] if item.images else {}
    error = item.error or {}
    return {
        "id": item.id,
        "job": item.job,
        "state": item.state,
        "route": item.route,
        "prompt": str(item.spec.get("prompt", ""))[:PROMPT_SHOWN],
        "attempts": item.attempts,
        "max_attempts": item.max_attempts,
        "submitted": item.provider_task is not None,
        "thumb": links.thumb(item, 0) if thumb else None,
        "width": picture.get("width"),
        "height": picture.get("height"),
        "error": {name: error.get(name) for name in ("kind", "message", "charged")} if error else None,
        **{name: record[name] for name in ("accepted_at", "started_at", "finished_at", "due_at", "metadata")},
    }
