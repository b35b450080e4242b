"""Adapter for the slide maker's request: a deck becomes a batch with one picture a slide."""

from __future__ import annotations

from typing import Any, Final

from daemon.compat.studio import as_ident
from pixmill.contract.batches import ITEMS_MAX
from pixmill.contract.jobs import MOST_PROMPT
from pixmill.contract.rejection import Rejection, clipped, shown

WORKERS: Final = (1, 10)
DEFAULT_WORKERS: Final = 3
DEFAULT_RATIO: Final = "16:9"
META_CHARS: Final = 256


def slide_batch(payload: dict[str, Any], *, route: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fields of a batch without id and tenant, and its items. Raises Rejection.

    `max_workers` becomes the batch's own cap: it may only lower what the account allows. Unknown fields are ignored.
    """
    slides = payload.get("slides")
    if not isinstance(slides, list) or not 1 <= len(slides) <= ITEMS_MAX:
        raise _invalid("slides", f"must be a list of 1 to {ITEMS_MAX} slides")
    style = _text(payload.get("style_prompt"), "style_prompt")
    items = [_item(slide, f"slides.{index}", style) for index, slide in enumerate(slides)]
    ratio = payload.get("aspect_ratio")
    fields: dict[str, Any] = {
        "defaults": {
            "route": route,
            "size": DEFAULT_RATIO if ratio in (None, "") else ratio,
            # Its callers know success and failure; a slide that waits for a person would keep them for ever.
            "on_unknown_outcome": "fail",
        },
        "max_in_flight": _workers(payload.get("max_workers")),
    }
    if session := payload.get("session_id"):
        fields["metadata"] = {"session_id": str(session)[:META_CHARS]}
    return fields, items


def _item(slide: Any, path: str, style: str) -> dict[str, Any]:
    if not isinstance(slide, dict):
        raise _invalid(path, f"must be an object, not {shown(slide)}")
    ident, page = slide.get("id"), slide.get("page_num")
    if not isinstance(ident, str | int) or isinstance(ident, bool) or ident == "":
        raise _invalid(f"{path}.id", f"must be a text or a number, not {shown(ident)}")
    if page is not None and type(page) is not int:
        raise _invalid(f"{path}.page_num", f"must be a whole number, not {shown(page)}")
    told = {
        name: _text(slide.get(name), f"{path}.{name}") for name in ("title", "content_text", "visual_desc")
    }
    # The picture comes before the words of a slide; a picture of a title alone is better than none.
    parts = [style, told["visual_desc"], told["title"], told["content_text"]]
    if not any(parts[1:]):
        raise _invalid(path, "must have a `visual_desc`, a `title` or a `content_text`")
    if (length := sum(map(len, parts))) > MOST_PROMPT:
        # Refused before it is joined: a thousand slides share the style.
        raise _invalid(
            path, f"has {length} characters together with the style, and {MOST_PROMPT} are the most"
        )
    metadata = {"slide_id": clipped(str(ident)), "title": told["title"][:META_CHARS]}
    if page is not None:
        metadata["page_num"] = str(page)
    if isinstance(kind := slide.get("type"), str):
        metadata["type"] = kind[:META_CHARS]
    prompt = "\n\n".join(part for part in parts if part)
    return {"id": as_ident(str(ident)), "prompt": prompt, "metadata": metadata}


def _workers(value: Any) -> int:
    least, most = WORKERS
    if value is None:
        return DEFAULT_WORKERS
    if type(value) is not int or not least <= value <= most:
        raise _invalid("max_workers", f"must be a whole number from {least} to {most}, not {shown(value)}")
    return int(value)


def _text(value: Any, path: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid(path, f"must be a text, not {shown(value)}")
    return value.strip()


def _invalid(path: str, what: str) -> Rejection:
    return Rejection("invalid", f"`{path}` {what}.", field=path)
