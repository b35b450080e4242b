"""OpenAI's images API as the simulator speaks it: generations, edits, and pictures behind addresses."""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from dataclasses import replace
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.shared.answers import json_object
from providers.simulator.drawing import CONTENT_TYPES, Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.ledger import Call, SentFile
from providers.simulator.quotas import Refusal
from providers.simulator.wires.one_call import OneCallWire, wait_headers

_KEPT_PICTURES = 256


class OpenAIWire(OneCallWire):
    """Routes over an engine."""

    beginning = b'{"created":1760000000,"data":[{"b64_json":"iVBORw0KGgo'

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._pictures: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self.routes = [
            Route("/v1/images/generations", self._generations, methods=["POST"]),
            Route("/v1/images/edits", self._edits, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/pictures/{name}", self._picture, methods=["GET"]),
        ]

    async def _generations(self, request: Request) -> Response:
        body = await request.body()
        fields = json_object(body)
        if fields is None:
            return _error(400, "invalid_json", "The body is not a JSON object.")
        return await self._called(request, body, fields)

    async def _edits(self, request: Request) -> Response:
        body = await request.body()
        fields, files = _multipart(request.headers.get("content-type", ""), body)
        if not any(file.name in ("image", "image[]") for file in files):
            return _error(400, "missing_image", "An edit needs an `image`.", param="image")
        return await self._called(request, body, fields, files)

    async def _called(
        self, request: Request, body: bytes, fields: dict[str, Any], files: tuple[SentFile, ...] = ()
    ) -> Response:
        images = str(fields.get("n", 1))
        return await self._answer(
            request,
            body,
            fields,
            prompt=str(fields.get("prompt") or ""),
            images=int(images) if images.isdigit() else 1,
            files=files,
        )

    async def _models(self, request: Request) -> Response:
        """The list of models, which costs nothing: a way to try a key."""
        _, _, key = request.headers.get("authorization", "").partition(" ")
        if not self._engine.knows(key):
            return self._unknown_key()
        return _json(
            {"object": "list", "data": [{"id": "sim-1", "object": "model", "owned_by": "simulator"}]}
        )

    async def _picture(self, request: Request) -> Response:
        kept = self._pictures.get(request.path_params["name"])
        if kept is None:
            return _error(404, "not_found", "There is no such picture, or it has expired.")
        return Response(kept[0], media_type=kept[1])

    async def _served(self, request: Request, fields: dict[str, Any], call: Call) -> Response:
        first = self._drawing(fields)
        items = []
        for number in range(call.images):
            drawing = replace(first, seed=first.seed + number)
            picture = await self._engine.work(drawing)
            items.append(self._item(request, fields, drawing, picture))
        usage = _usage(call)
        return _json({"created": 1_760_000_000, "data": items, "usage": usage})

    def _drawing(self, fields: dict[str, Any]) -> Drawing:
        width, height = _size(fields)
        prompt = str(fields["prompt"])
        asked = str(fields.get("seed", ""))
        seed = int(asked) if asked.isdigit() else self._engine.seed_for(prompt)
        return Drawing(
            prompt=prompt,
            seed=seed,
            width=width,
            height=height,
            format=str(fields.get("output_format") or "png"),
            quality=int(fields.get("output_compression") or 85),
            plain=self._engine.settings.plain,
        )

    def _item(
        self, request: Request, fields: dict[str, Any], drawing: Drawing, picture: bytes
    ) -> dict[str, Any]:
        item: dict[str, Any] = {"seed": drawing.seed}
        if fields.get("response_format") != "url":
            return item | {"b64_json": base64.b64encode(picture).decode()}
        name = f"{secrets.token_hex(12)}.{drawing.format}"
        self._pictures[name] = (picture, CONTENT_TYPES[drawing.format])
        while len(self._pictures) > _KEPT_PICTURES:
            self._pictures.popitem(last=False)
        return item | {"url": f"{request.base_url}pictures/{name}"}

    def _unknown_key(self) -> Response:
        return _error(401, "invalid_api_key", "Incorrect API key provided.")

    def _throttled(self, refusal: Refusal) -> Response:
        if refusal.quota == "in_flight":
            code, message = "concurrency_limit_exceeded", "Too many concurrent requests for this key."
        else:
            code, message = "rate_limit_exceeded", f"Rate limit reached for {refusal.quota} per key."
        headers = wait_headers(refusal) if self._engine.settings.send_retry_after else {}
        return _error(429, code, message, type_="rate_limit_error", headers=headers)

    def _turned_away(self, fault: Fault) -> Response:
        headers = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
        status, code, type_, message = _AT_THE_DOOR[fault.kind]
        return _error(status, code, message, type_=type_, headers=headers)

    def _problem(self, fields: dict[str, Any]) -> Response | None:
        return _problem(fields)

    def _moderated(self, call: Call) -> Response:  # noqa: ARG002 (nothing is charged)
        return _moderation()

    def _spoilt(self, fault: Fault, fields: dict[str, Any], call: Call) -> Response:  # noqa: ARG002 (as OneCallWire)
        match fault.kind:
            case FaultKind.EMPTY:
                return _json({"created": 1_760_000_000, "data": []})
            case FaultKind.ERROR_INSIDE:
                return _json(
                    {"error": {"message": "The upstream failed.", "type": "channel_error", "code": 500}}
                )
            case FaultKind.WITHHELD:
                message = "The generated image was filtered by our safety system."
                return _error(400, "moderation_blocked", message, type_="image_generation_user_error")
            case FaultKind.NOT_A_PICTURE:
                return _json({"data": [{"b64_json": base64.b64encode(b"this is no picture").decode()}]})
            case FaultKind.MODERATION:
                return _moderation()
            case _:
                return _error(500, "server_error", "The server had an error.", type_="server_error")


_AT_THE_DOOR = {
    FaultKind.RATE_LIMIT: (429, "rate_limit_exceeded", "rate_limit_error", "Rate limit reached."),
    FaultKind.CONCURRENCY: (
        429,
        "concurrency_limit_exceeded",
        "rate_limit_error",
        "Too many concurrent requests.",
    ),
    FaultKind.BILLING: (
        429,
        "credit_balance_exhausted",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    FaultKind.OVERLOADED: (503, "server_is_overloaded", "server_error", "The server is overloaded."),
    FaultKind.AUTH: (401, "invalid_api_key", "invalid_request_error", "Incorrect API key provided."),
}


def _problem(fields: dict[str, Any]) -> Response | None:
    """Why the request is not valid, as an answer."""
    if not fields.get("prompt") or not isinstance(fields["prompt"], str):
        return _error(400, "missing_required_parameter", "A prompt is required.", param="prompt")
    if str(fields.get("model", "")).startswith("gpt-image") and "response_format" in fields:
        return _error(
            400, "unknown_parameter", "Unknown parameter: response_format.", param="response_format"
        )
    if str(fields.get("n", 1)) not in {str(count) for count in range(1, 11)}:
        return _error(400, "invalid_value", "n must lie in 1..10.", param="n")
    if str(fields.get("output_format") or "png") not in CONTENT_TYPES:
        return _error(400, "invalid_value", "output_format must be png, jpeg or webp.", param="output_format")
    if not 0 <= _whole(fields.get("output_compression", 85)) <= 100:
        return _error(
            400, "invalid_value", "output_compression must lie in 0..100.", param="output_compression"
        )
    if not all(16 <= side <= 4096 for side in _size(fields)):
        return _error(400, "invalid_value", f"Invalid size {fields.get('size')!r}.", param="size")
    return None


def _size(fields: dict[str, Any]) -> tuple[int, int]:
    """Width and height in pixels; (0, 0) if it is no size."""
    size = fields.get("size") or "auto"
    width, _, height = ("1024x1024" if size == "auto" else str(size)).partition("x")
    return _whole(width), _whole(height)


def _whole(value: object) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _moderation() -> Response:
    message = "Your request was rejected by the safety system. safety_violations=[violence]."
    return _error(400, "moderation_blocked", message, type_="image_generation_user_error")


def _usage(call: Call) -> dict[str, Any]:
    """Tokens: 10 of the prompt, 323 of each input picture, 272 of each picture made."""
    text, image, made = 10, 323 * len(call.files), 272 * call.images
    return {
        "input_tokens": text + image,
        "input_tokens_details": {"text_tokens": text, "image_tokens": image},
        "output_tokens": made,
        "total_tokens": text + image + made,
    }


def _multipart(content_type: str, body: bytes) -> tuple[dict[str, Any], tuple[SentFile, ...]]:
    """The text fields of a multipart form, and its files."""
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=HTTP)
    fields: dict[str, Any] = {}
    files = []
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        data = content if isinstance(content, bytes) else b""
        if part.get_filename() is not None:
            files.append(SentFile.of(name, part.get_content_type(), data))
        else:
            fields[name] = data.decode("utf-8", "replace")
    return fields, tuple(files)


def _error(
    status: int,
    code: str,
    message: str,
    *,
    type_: str = "invalid_request_error",
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    return _json(
        {"error": {"message": message, "type": type_, "param": param, "code": code}}, status, headers
    )


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    named = {"x-request-id": f"req_{secrets.token_hex(8)}", **(headers or {})}
    return Response(orjson.dumps(document), status, named, media_type="application/json")
