"""The pictures of a job in OpenAI's form, and its failure as an error of OpenAI's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import Response

from daemon.gateway.answering.memory import HeldResponse
from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.access import Caller
from daemon.gateway.gateway import Gateway
from daemon.gateway.openai.route import NO_RETRY
from daemon.gateway.work.links import Links
from daemon.gateway.work.pictures import LINK_LASTS
from pixmill.records.records import ItemView, View

MODERATED: Final = frozenset({"moderation_input", "moderation_output"})
# A caller that sends a valid job is not at fault for these.
OURS: Final = {"billing_exhausted": 402, "quota_exhausted": 402, "invalid_request": 400, "unsupported": 400}

COPIES: Final = 3  # of a picture: its text takes 4/3, and so does the whole answer

# Events must have these for the types of the SDK; records count pictures and money, and no tokens.
NO_TOKENS: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@dataclass(frozen=True, slots=True)
class Form:
    """How one caller gets its pictures: as text, or as addresses that work without a key for an hour."""

    here: Gateway
    links: Links
    caller: Caller
    as_url: bool

    async def picture(self, item: ItemView) -> dict[str, Any]:
        """One entry of `data`. Raises Problem when the store has lost the picture; StorageError."""
        store, image = self.here.store, item.images[0]
        revised = (item.result or {}).get("revised_prompt")
        more = {} if revised is None else {"revised_prompt": revised}
        if self.as_url:
            stored = await store.link(image["key"], LINK_LASTS)
            ours = self.links.image(item, 0)
            return {"url": stored or await self.here.keyring.link_for(self.caller, ours), **more}
        data = await store.get(image["key"])
        if data is None:
            raise Problem(502, "picture_gone", "The picture was made, but the store has it no more.")
        return {"b64_json": await asyncio.to_thread(_text_of, data), **more}

    def bytes_of(self, items: Sequence[ItemView]) -> int:
        """The memory that an answer with these pictures takes while it is made."""
        return 0 if self.as_url else COPIES * sum(int(item.images[0]["bytes"]) for item in items)


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def facts_of(item: ItemView) -> dict[str, Any]:
    """The facts in an event about a picture that was made, whatever was wanted."""
    image = item.images[0]
    return {
        "created_at": int(item.accepted_at.timestamp()),
        "size": f"{image['width']}x{image['height']}",
        "output_format": str(image["content_type"]).partition("/")[2],
        "usage": NO_TOKENS,
    }


async def pictures_answer(form: Form, items: Sequence[ItemView]) -> Response:
    """The answer with the pictures of a job that has ended. Raises as `images_response`; Problem 503 while busy."""
    good = [item for item in items if item.state == "succeeded"]
    give_back = await form.here.memory.take(form.bytes_of(good))
    try:
        body, headers = await images_response(form, items)
        content = await asyncio.to_thread(orjson.dumps, body)
        return HeldResponse(content, headers, "application/json", give_back)
    except BaseException:
        give_back()
        raise


async def images_response(form: Form, items: Sequence[ItemView]) -> tuple[dict[str, Any], dict[str, str]]:
    """The body of a success, and its headers. Raises Problem if no picture was made."""
    good = [item for item in items if item.state == "succeeded"]
    if not good:
        raise failure_of(items)
    data = [await form.picture(item) for item in good]
    failed = len(items) - len(good)
    body = {"created": int(created_at(items)), "data": data}
    return body, {"x-pixmill-failed": str(failed)} if failed else {}


def failure_of(items: Sequence[ItemView]) -> Problem:
    """The reason why a job has no picture, in the class that a caller should act on."""
    if not items:
        return Problem(
            410, "expired", "The records of the job's pictures have expired, or are being deleted."
        )
    first = next((item for item in items if item.error), None)
    if first is None or first.error is None:
        return Problem(409, items[0].state, f"The job has ended as {items[0].state}.")
    kind, message = str(first.error.get("kind", "unknown")), str(first.error.get("message", ""))
    if kind in MODERATED:
        return Problem(400, "moderation_blocked", message or "The provider refused the prompt.")
    field = first.error.get("field")
    param = field if isinstance(field, str) else None
    # A repetition would join the job that has ended, and fail likewise.
    return Problem(OURS.get(kind, 502), kind, message, field=param, headers=NO_RETRY)


def created_at(items: Sequence[ItemView]) -> float:
    """When the job was accepted, in seconds since 1970."""
    return min((item.accepted_at for item in items), default=datetime.now(UTC)).timestamp()


def task_of(view: View, items: Sequence[ItemView], records_s: float) -> dict[str, Any]:
    """A task as clients of asynchronous images poll it, without its result."""
    began = created_at(items)
    ended = [item.finished_at.timestamp() for item in items if item.finished_at is not None]
    last = max(ended, default=began)
    task: dict[str, Any] = {
        "id": view.id,
        "task_id": view.id,
        "object": "image.generation.task",
        "status": "processing",
        "created_at": int(began),
        "expires_at": int(last + records_s),
    }
    if is_over(view):
        task |= {"status": "completed", "http_status": 200, "completed_at": int(last)}
    return task


def is_over(view: View) -> bool:
    """Whether nothing more comes by itself: it has ended, or waits for a person."""
    return view.ended or view.needs_person
