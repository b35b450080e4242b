"""Reads answers: the JSON document, the error inside it, its pictures, its usage and cost.

Bytes that leave this module as a picture were recognised as one; otherwise a ProviderError describes them.
"""

from __future__ import annotations

import binascii
import codecs
import json
import string
from collections.abc import Callable, Collection
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import unquote

import orjson
import pybase64

from providers.base import Picture
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.http.client import SMALL_BYTES, Answer
from providers.http.exchange import KeptConnections
from providers.http.outside import OutsideError, download

MAX_PICTURE_BYTES = 64 * 1024 * 1024
PICTURE_FIELDS = ("b64_json", "url", "image_url")  # of an item that holds a picture


def json_object(body: bytes | bytearray) -> dict[str, Any] | None:
    """The body as a JSON object; None if it is anything else. A byte order mark before it is skipped."""
    view = memoryview(body)[len(codecs.BOM_UTF8) :] if body.startswith(codecs.BOM_UTF8) else body
    try:
        document = orjson.loads(view)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def emptied(body: bytearray) -> dict[str, Any] | None:
    """As `json_object`, and leaves nothing of the body: a large one is held twice at a time, not three times.

    A lone surrogate in a text becomes visible, so that records and events can hold the text. It does not spoil the
    document, which is paid for.
    """
    document = json_object(body) if len(body) <= SMALL_BYTES or not body.isascii() else None
    text = "" if document is not None else body.decode("utf-8-sig", "replace")
    body.clear()
    if document is not None:
        return document
    try:
        # orjson keeps a copy of its own beside the result, and refuses lone surrogates.
        document = _writable(json.loads(text))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def answered_object(
    answer: Answer,
    request_id: str | None = None,
    *,
    kind: ErrorKind = ErrorKind.BAD_RESPONSE,
    read: Callable[[bytearray], dict[str, Any] | None] = json_object,
) -> dict[str, Any]:
    """The document of an answer with a status of success; raises `kind` if it is no JSON object."""
    document = read(answer.body)
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
    """The error for an answer of success that does not show the result of the call.

    For polls pass `poll_error`: such an answer says nothing new about the task.
    """
    content_type = answer.headers.get("content-type", "no content type")
    message = f"The answer has status {answer.status}, but {what} ({content_type})."
    return ProviderError(kind, message, http_status=answer.status, request_id=request_id)


def no_image(answer: Answer, message: str, request_id: str | None) -> ProviderError:
    """The error for an answer of success without a picture."""
    return ProviderError(ErrorKind.NO_IMAGE, message, http_status=answer.status, request_id=request_id)


def error_in(document: dict[str, Any]) -> dict[str, Any]:
    """The error that a document holds, under any status; empty if it holds none."""
    error = document.get("error") or document.get("errors")
    if isinstance(error, str):
        return {"message": error}
    if isinstance(error, dict):
        return error
    if "data" not in document and ("message" in document or "detail" in document):
        return {**document, "message": document.get("message") or document.get("detail")}
    return {}


def error_object(body: bytes | bytearray) -> dict[str, Any]:
    """The error that a body holds; empty if it holds none or is no JSON."""
    return error_in(json_object(body) or {})


def word(value: object) -> str:
    """A field as text; empty for a missing one, an object or a list."""
    return "" if value is None or isinstance(value, dict | list) else str(value)


def text_in(document: dict[str, Any], name: str) -> str | None:
    """A field that holds text; None for an empty text or another type."""
    value = document.get(name)
    return value if isinstance(value, str) and value else None


def pictures_in(
    items: object, answer: Answer, host: str, sent_seed: int | None, request_id: str | None
) -> tuple[Picture, ...]:
    """The pictures in a list of items; see `picture_of`. Raises `bad_response` if `items` is no list.

    A broken picture beside a good one is left out: the call is paid, and another call would be paid again.
    """
    if not isinstance(items, list):
        raise bad_answer(answer, "holds something else than a list of pictures", request_id)
    found: list[Picture] = []
    broken: ProviderError | None = None
    for item in items:
        try:
            picture = picture_of(item, host, sent_seed)
        except ProviderError as error:
            broken = broken or error
            continue
        if picture is not None:
            found.append(picture)
    try:
        if broken is not None and not found:
            raise broken
    finally:
        broken = None  # the error must not keep itself, and the answer, in memory
    return tuple(found)


def picture_of(item: object, host: str, sent_seed: int | None) -> Picture | None:
    """The picture that an item of an answer holds, in any form in use; None if it holds none.

    The forms: `b64_json`, `url`, or `image_url` with a `url` inside; each may also be a whole `data:` URL. Raises
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
        return Picture(data=_decoded(encoded, host), seed=seed)
    return Picture(url=url, seed=seed) if isinstance(url, str) and url else None


async def fetch_picture(
    picture: Picture, *, host: str, allow_hosts: Collection[str], connections: KeptConnections | None = None
) -> bytes:
    """The bytes of `picture`, downloaded if it only has an address, by one of `connections` where it can.

    Raises `result_download` (try again; never, if our own rules refuse the address), `result_expired` (nothing is at
    the address, no longer or not yet) or `bad_response` (it leads to no picture). In each case it was paid for.
    """
    if picture.data is not None:
        return picture.data
    if picture.url is None:
        raise _bad(f"{host} gave neither a picture nor an address.")
    try:
        data = await download(
            picture.url, max_bytes=MAX_PICTURE_BYTES, allow_hosts=allow_hosts, connections=connections
        )
    except OutsideError as error:
        raise _download_failure(error) from None
    return _recognised(data, f"The address that {host} gave for the picture")


def sniff_format(data: bytes) -> str | None:
    """ "png", "jpeg" or "webp" by the first bytes, not by a header or a file name; else None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def listed_models(document: dict[str, Any]) -> frozenset[str]:
    """The names in a list of models, in the form that OpenAI and OpenRouter share; empty for anything else."""
    models = document.get("data")
    names = (
        (word(each.get("id")) for each in models if isinstance(each, dict))
        if isinstance(models, list)
        else ()
    )
    return frozenset(filter(None, names))


def usage_in(document: dict[str, Any]) -> dict[str, Any]:
    """The tokens and costs that an answer reports; empty if it reports none."""
    usage = document.get("usage")
    return usage if isinstance(usage, dict) else {}


def amount(value: object) -> Decimal | None:
    """An amount of money as a provider writes it; None for anything else, also for a negative or endless number.

    A JSON number goes through its shortest text, so 0.0387 stays 0.0387.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        money = Decimal(str(value))
    except InvalidOperation:
        return None
    return money if money.is_finite() and money >= 0 else None


def _writable(value: Any) -> Any:
    """The same value, with lone surrogates escaped in its texts."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_writable(each) for each in value]
    if isinstance(value, dict):
        return {_writable(name): _writable(each) for name, each in value.items()}
    return value


def _decoded(encoded: str, host: str) -> bytes:
    """The picture in base64 text or in a whole `data:` URL; raises `bad_response`."""
    plain = unquote(encoded.partition(",")[2]) if encoded.startswith("data:") else encoded
    try:
        # Python's own decoder would hold the event loop for 8 ms with a picture of 1.3 MB.
        try:
            data = pybase64.b64decode(plain, validate=True)
        except binascii.Error:
            data = pybase64.b64decode(_respelled(plain), validate=True)
    except ValueError:
        raise _bad(f"{host} sent a picture whose base64 is broken or cut off.") from None
    return _recognised(data, f"What {host} sent")


def _respelled(encoded: str) -> str:
    """Base64 of any spelling in the plain one: without line breaks, in the standard alphabet, padded."""
    plain = encoded.translate(_OTHER_SPELLINGS).rstrip("=")
    return plain + "=" * (-len(plain) % 4)


_OTHER_SPELLINGS = str.maketrans("-_", "+/", string.whitespace)


def _recognised(data: bytes, what: str) -> bytes:
    if sniff_format(data) is None:
        raise _bad(f"{what} is not a PNG, JPEG or WebP picture.")
    return data


def _download_failure(error: OutsideError) -> ProviderError:
    message = f"The picture was made, but: {error.problem}"
    if error.allow is not None:
        message += f" If that host may be trusted, add {error.allow} to `allow_hosts` of the credential."
    kind, retry = ErrorKind.RESULT_DOWNLOAD, None
    if error.refused:
        retry = Retry.NEVER  # another picture would be refused as well; the operator may allow the address
    elif error.http_status in (403, 404, 410):
        kind = ErrorKind.RESULT_EXPIRED
    return ProviderError(kind, message, http_status=error.http_status, retry=retry, charged=Charged.YES)


def _bad(message: str) -> ProviderError:
    return ProviderError(ErrorKind.BAD_RESPONSE, message, http_status=200)
