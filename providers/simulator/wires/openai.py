"""OpenAI's images API as the simulator speaks it: generations, edits, and pictures behind addresses."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.simulator.drawing import CONTENT_TYPES, Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import FaultKind
from providers.simulator.ledger import Call, SentFile
from providers.simulator.pictures import NOT_A_PICTURE, Pictures
from providers.simulator.wires.base import CallWire, Check, Fields, json_response, sides, wait_headers, whole

_CREATED = 1_760_000_000
_FILES = "files of the form"  # the parts with a file, among the fields


class OpenAIWire(CallWire):
    """Generations and edits; the list of models costs nothing, so it can test a key."""

    beginning = b'{"created":1760000000,"data":[{"b64_json":"iVBORw0KGgo'

    def __init__(self, engine: Engine, pictures: Pictures) -> None:
        super().__init__(engine)
        self._pictures = pictures
        self.routes = [
            Route("/v1/images/generations", self.submit, methods=["POST"]),
            Route("/v1/images/edits", self.submit, methods=["POST"]),
            Route("/v1/models", self._keyed(self._models), methods=["GET"]),
        ]

    async def _models(self, _request: Request, _key: str) -> Response:
        models = [{"id": "sim-1", "object": "model", "owned_by": "simulator"}]
        return json_response({"object": "list", "data": models})

    def _fields(self, request: Request, body: bytes) -> Fields | None:
        if request.url.path.endswith("/edits"):
            return _form(request.headers.get("content-type", ""), body)
        return super()._fields(request, body)

    def _images(self, fields: Fields) -> int:
        return whole(fields.get("n", 1)) or 1

    def _files(self, fields: Fields) -> tuple[SentFile, ...]:
        return tuple(fields.get(_FILES, ()))

    def _checks(self, fields: Fields) -> Iterator[Check]:
        files = fields.get(_FILES)
        has_image = files is None or any(file.name in ("image", "image[]") for file in files)
        yield has_image, "An edit needs an `image`.", "missing_image", "image"
        prompt = fields.get("prompt")
        is_text = isinstance(prompt, str) and bool(prompt)
        yield is_text, "A prompt is required.", "missing_required_parameter", "prompt"
        strict = str(fields.get("model", "")).startswith("gpt-image") and "response_format" in fields
        yield not strict, "Unknown parameter: response_format.", "unknown_parameter", "response_format"
        yield 1 <= whole(fields.get("n", 1)) <= 10, "n must lie in 1..10.", "invalid_value", "n"
        known = str(fields.get("output_format") or "png") in CONTENT_TYPES
        yield known, "output_format must be png, jpeg or webp.", "invalid_value", "output_format"
        compression = whole(fields.get("output_compression", 85))
        yield compression <= 100, "output_compression is at most 100.", "invalid_value", "output_compression"
        sane = all(16 <= side <= 4096 for side in _size(fields))
        yield sane, f"Invalid size {fields.get('size')!r}.", "invalid_value", "size"

    def _drawing(self, fields: Fields) -> Drawing:
        seed = str(fields.get("seed", ""))
        return self._engine.drawing(
            str(fields["prompt"]),
            int(seed) if seed.isdigit() else None,
            _size(fields),
            format=str(fields.get("output_format") or "png"),
            quality=int(fields.get("output_compression") or 85),
        )

    async def _served(self, request: Request, fields: Fields, call: Call) -> Response:
        first = self._drawing(fields)
        items = []
        for number in range(call.images):
            drawing = replace(first, seed=first.seed + number)
            picture = await self._engine.work(drawing)
            items.append({"seed": drawing.seed, **self._item(request, fields, drawing.format, picture)})
        return _json({"created": _CREATED, "data": items, "usage": _usage(call)})

    def _item(self, request: Request, fields: Fields, format_: str, picture: bytes) -> dict[str, str]:
        if fields.get("response_format") != "url":
            return {"b64_json": base64.b64encode(picture).decode()}
        name = f"{secrets.token_hex(12)}.{format_}"
        self._pictures.keep(name, picture)
        return {"url": self._pictures.url(name, request)}

    def _spoilt(self, kind: FaultKind, call: Call) -> Response:  # noqa: ARG002 (nothing is charged)
        match kind:
            case FaultKind.EMPTY:
                return _json({"created": _CREATED, "data": []})
            case FaultKind.ERROR_INSIDE:
                error = {"message": "The upstream failed.", "type": "channel_error", "code": 500}
                return _json({"error": error})
            case FaultKind.NOT_A_PICTURE:
                return _json({"data": [{"b64_json": base64.b64encode(NOT_A_PICTURE).decode()}]})
            case _:
                return self.refusal(kind)

    def refusal(self, kind: FaultKind, wait_s: float | None = None) -> Response:
        status, code, message, type_ = _REFUSALS.get(kind, _REFUSALS[FaultKind.SERVER_ERROR])
        return _error(status, code, message, type_, headers=wait_headers(wait_s))

    def _invalid(self, message: str, code: str = "", param: str = "") -> Response:
        return _error(400, code or "invalid_json", message, "invalid_request_error", param or None)


def _blocked(message: str) -> tuple[int, str, str, str]:
    return 400, "moderation_blocked", message, "image_generation_user_error"


_REFUSALS = {
    FaultKind.RATE_LIMIT: (429, "rate_limit_exceeded", "Rate limit reached.", "rate_limit_error"),
    FaultKind.CONCURRENCY: (429, "concurrency_limit_exceeded", "Too many at once.", "rate_limit_error"),
    FaultKind.BILLING: (
        429,
        "credit_balance_exhausted",
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
    ),
    FaultKind.OVERLOADED: (503, "server_is_overloaded", "The server is overloaded.", "server_error"),
    FaultKind.AUTH: (401, "invalid_api_key", "Incorrect API key provided.", "invalid_request_error"),
    FaultKind.MODERATION: _blocked("Rejected by the safety system. safety_violations=[violence]."),
    FaultKind.WITHHELD: _blocked("The generated image was filtered by our safety system."),
    FaultKind.SERVER_ERROR: (500, "server_error", "The server had an error.", "server_error"),
}


def _size(fields: Fields) -> tuple[int, int]:
    size = fields.get("size") or "auto"
    return sides("1024x1024" if size == "auto" else size)


def _usage(call: Call) -> dict[str, Any]:
    """Tokens: 10 of the prompt, 323 of each input picture, 272 of each picture made."""
    text, image, made = 10, 323 * len(call.files), 272 * call.images
    return {
        "input_tokens": text + image,
        "input_tokens_details": {"text_tokens": text, "image_tokens": image},
        "output_tokens": made,
        "total_tokens": text + image + made,
    }


def _form(content_type: str, body: bytes) -> Fields:
    """The text fields of a multipart form, and its files under `_FILES`."""
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=HTTP)
    fields: Fields = {_FILES: []}
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        data = content if isinstance(content, bytes) else b""
        if part.get_filename() is not None:
            fields[_FILES].append(SentFile.of(name, part.get_content_type(), data))
        else:
            fields[name] = data.decode("utf-8", "replace")
    return fields


def _error(
    status: int,
    code: str,
    message: str,
    type_: str,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    return _json(
        {"error": {"message": message, "type": type_, "param": param, "code": code}}, status, headers
    )


def _json(document: Fields, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_response(document, status, {"x-request-id": f"req_{secrets.token_hex(8)}", **(headers or {})})
