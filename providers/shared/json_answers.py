"""Reading answers of success that hold the picture in JSON: the document, its pictures, what they cost."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from providers.base import Picture
from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer
from providers.shared.pictures import decoded_picture
from providers.shared.refusals import json_object


def answered_object(
    answer: Answer, request_id: str | None = None, *, kind: ErrorKind = ErrorKind.BAD_RESPONSE
) -> dict[str, Any]:
    """The document of an answer with a status of success; raises `kind` if it is no JSON object."""
    document = json_object(answer.body)
    if document is None:
        raise bad_answer(answer, "is no JSON object", request_id, kind=kind)
    return document


def bad_answer(
    answer: Answer,
    what: str,
    request_id: str | None = None,
    *,
    kind: ErrorKind = ErrorKind.BAD_RESPONSE,
) -> ProviderError:
    """The error for an answer with a status of success that does not say what became of the call.

    For polls pass `poll_error`: that the call was taken says nothing new of a task.
    """
    content_type = answer.headers.get("content-type", "no content type")
    return ProviderError(
        kind,
        f"The answer has status {answer.status}, but {what} ({content_type}).",
        http_status=answer.status,
        request_id=request_id,
    )


def pictures_in(
    items: object, answer: Answer, host: str, sent_seed: int | None, request_id: str | None
) -> tuple[Picture, ...]:
    """The pictures of what should be a list of them; see `picture_of`. Raises `bad_response` for anything else."""
    if not isinstance(items, list):
        raise bad_answer(answer, "holds something else than a list of pictures", request_id)
    found = (picture_of(item, host, sent_seed) for item in items)
    return tuple(picture for picture in found if picture is not None)


def picture_of(item: object, host: str, sent_seed: int | None) -> Picture | None:
    """The picture that an item of an answer holds, in any of the forms in use; None if it holds none.

    `b64_json`, `url`, or `image_url` with a `url` inside; each may also be a whole `data:` URL. Raises
    `bad_response` for base64 that is no picture.
    """
    if not isinstance(item, dict):
        return None
    seed = item.get("seed")
    seed = seed if isinstance(seed, int) else sent_seed
    encoded, url = item.get("b64_json"), item.get("url")
    if isinstance(item.get("image_url"), dict | str):
        inner = item["image_url"]
        url = inner.get("url") if isinstance(inner, dict) else inner
    if isinstance(url, str) and url.startswith("data:"):
        encoded, url = url, None
    if isinstance(encoded, str) and encoded:
        return Picture(data=decoded_picture(encoded, host), seed=seed)
    return Picture(url=url, seed=seed) if isinstance(url, str) and url else None


def usage_in(document: dict[str, Any]) -> dict[str, Any]:
    """What an answer says of tokens and cost; empty if it says nothing."""
    usage = document.get("usage")
    return usage if isinstance(usage, dict) else {}


def amount(value: object) -> Decimal | None:
    """An amount of money as a provider writes it; None for what is none (a negative or endless one, too).

    A JSON number goes through its shortest text, so 0.0387 stays 0.0387.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        money = Decimal(str(value))
    except InvalidOperation:
        return None
    return money if money.is_finite() and money >= 0 else None
