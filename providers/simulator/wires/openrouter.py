"""OpenRouter as the simulator speaks it: chat completions that draw, the images endpoint, and what a key has left.

It bills as OpenRouter does: tokens of what was made, told as `usage.cost`, also where no picture came of them.
"""

from __future__ import annotations

import base64
import secrets
from abc import abstractmethod
from decimal import Decimal
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.openrouter.models import CHAT_RATIOS, IMAGES_RATIOS
from providers.shared.answers import json_object
from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.ledger import Call, SentFile
from providers.simulator.quotas import Refusal
from providers.simulator.wires.data_urls import file_in
from providers.simulator.wires.one_call import OneCallWire, wait_headers

IMAGE_TOKENS = 1290  # of one picture
TEXT_TOKENS = 12  # of an answer in words
USD_PER_TOKEN = Decimal(30) / 1_000_000
_CREATED = 1_760_000_000
_TIERS = {"1K": 1, "2K": 2, "4K": 4}


class OpenRouterWire:
    """Routes over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        chat, images = _ChatWire(engine), _ImagesWire(engine)
        self.routes = [
            Route("/api/v1/chat/completions", chat.called, methods=["POST"]),
            Route("/api/v1/images", images.called, methods=["POST"]),
            Route("/api/v1/key", self._key, methods=["GET"]),
        ]

    async def _key(self, request: Request) -> Response:
        _, _, key = request.headers.get("authorization", "").partition(" ")
        if not self._engine.knows(key):
            return _error(401, "User not found.", error_type="authentication")
        limits = {"limit": None, "limit_remaining": None, "limit_reset": None, "is_free_tier": False}
        spent = float(self._engine.ledger.costs().get("USD", Decimal(0)))
        return _json({"data": {"label": "sk-or-v1-sim...", "usage": spent, **limits}})


class _Wire(OneCallWire):
    """What both endpoints have in common: the words of refusals, and the bill."""

    async def called(self, request: Request) -> Response:
        body = await request.body()
        fields = json_object(body)
        if fields is None:
            return _error(400, "The body is not a JSON object.", error_type="invalid_request")
        return await self._answer(request, body, fields, prompt=self._prompt(fields), files=_files(fields))

    @abstractmethod
    def _prompt(self, fields: dict[str, Any]) -> str:
        """What is to be drawn; empty where nothing is said."""

    @abstractmethod
    def _size(self, fields: dict[str, Any]) -> tuple[int, int]:
        """In pixels; the fields have been found to be valid."""

    @abstractmethod
    def _document(self, pictures: list[bytes], call: Call, **more: Any) -> dict[str, Any]:
        """An answer of this endpoint with `pictures`, and `more` for chat completions to say why there is none."""

    def _unknown_key(self) -> Response:
        return _error(401, "User not found.", error_type="authentication")

    def _turned_away(self, fault: Fault) -> Response:
        headers = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
        match fault.kind:
            case FaultKind.BILLING if fault.retry_after_s is not None:
                message = "Your in-flight spending budget is used up by running requests."
                return _error(402, message, headers, limit_source="openrouter_in_flight_budget")
            case FaultKind.BILLING:
                return _error(402, "Insufficient credits.", headers, limit_source="openrouter_credits")
            case FaultKind.OVERLOADED:
                return _error(503, "No provider is available.", headers, error_type="provider_overloaded")
            case FaultKind.AUTH:
                return self._unknown_key()
            case FaultKind.CONCURRENCY:
                # No canonical type says this, so only the words do.
                return _error(429, "Too many concurrent requests.", headers)
            case _:
                return _error(
                    429,
                    "Provider returned error",
                    headers,
                    error_type="rate_limit_exceeded",
                    provider_name="Simulated AI",
                    raw='{"error":{"message":"Temporarily rate-limited upstream."}}',
                )

    def _throttled(self, refusal: Refusal) -> Response:
        what = "concurrent requests" if refusal.quota == "in_flight" else refusal.quota
        headers = wait_headers(refusal) if self._engine.settings.send_retry_after else {}
        return _error(
            429, f"Rate limit exceeded: {what} per account.", headers, error_type="rate_limit_exceeded"
        )

    def _moderated(self, call: Call) -> Response:
        return _error(
            403,
            "The input was flagged.",
            error_type="content_policy_violation",
            reasons=["violence"],
            flagged_input=call.prompt[:40],
            provider_name="Simulated AI",
        )

    def _spoilt(self, fault: Fault, fields: dict[str, Any], call: Call) -> Response:  # noqa: ARG002 (as OneCallWire)
        match fault.kind:
            case FaultKind.EMPTY:
                _charge(call, TEXT_TOKENS)
                said = {
                    "finish_reason": "stop",
                    "native_finish_reason": "NO_IMAGE",
                    "content": "A fine idea!",
                }
                return _json(self._document([], call, **said))
            case FaultKind.WITHHELD:
                _charge(call, IMAGE_TOKENS)
                said = {"finish_reason": "content_filter", "native_finish_reason": "IMAGE_SAFETY"}
                return _json(self._document([], call, **said))
            case FaultKind.ERROR_INSIDE:
                error = {"code": 502, "message": "Provider returned error", "metadata": {"raw": "boom"}}
                return _json({"id": _generation(), "error": error})
            case FaultKind.NOT_A_PICTURE:
                _charge(call, IMAGE_TOKENS)
                return _json(self._document([b"this is no picture"], call))
            case FaultKind.MODERATION:
                return self._moderated(call)
            case _:
                return _error(500, "Internal server error.", error_type="server")

    def _bill(self, call: Call, fields: dict[str, Any]) -> None:
        super()._bill(call, fields)
        _charge(call, IMAGE_TOKENS)

    async def _served(self, request: Request, fields: dict[str, Any], call: Call) -> Response:  # noqa: ARG002
        width, height = self._size(fields)
        seed = fields.get("seed")
        drawing = Drawing(
            prompt=call.prompt,
            seed=seed if isinstance(seed, int) else self._engine.seed_for(call.prompt),
            width=width,
            height=height,
            plain=self._engine.settings.plain,
        )
        return _json(self._document([await self._engine.work(drawing)], call))


class _ChatWire(_Wire):
    beginning = (
        b'{"id":"gen-1","choices":[{"index":0,"message":{"images":[{"image_url":{"url":"data:image/png;base'
    )

    def _prompt(self, fields: dict[str, Any]) -> str:
        return "".join(part.get("text", "") for part in _parts(fields) if part.get("type") == "text")

    def _problem(self, fields: dict[str, Any]) -> Response | None:
        config = fields.get("image_config") or {}
        if not isinstance(config, dict):
            return _error(400, "image_config must be an object.", error_type="invalid_request")
        checks: list[tuple[bool, str]] = [
            (bool(fields.get("model")), "model is required."),
            (bool(self._prompt(fields)), "A message with text is required."),
            # Where a client says nothing, as litellm does, a model for pictures makes one.
            ("image" in fields.get("modalities", ["image"]), "modalities must name image."),
            (config.get("aspect_ratio", "1:1") in CHAT_RATIOS, "aspect_ratio is not supported."),
            (config.get("image_size", "1K") in _TIERS, "image_size is not supported."),
            (fields.get("stream", False) is False, "The simulator does not stream."),
        ]
        return _first_problem(checks)

    def _size(self, fields: dict[str, Any]) -> tuple[int, int]:
        config = fields.get("image_config") or {}
        times = _TIERS[config.get("image_size", "1K")]
        width, height = CHAT_RATIOS[config.get("aspect_ratio", "1:1")]
        return width * times, height * times

    def _document(self, pictures: list[bytes], call: Call, **more: Any) -> dict[str, Any]:
        urls = [f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
        message: dict[str, Any] = {"role": "assistant", "content": more.pop("content", "")}
        if urls:
            message["images"] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        finished = {"finish_reason": "stop", "native_finish_reason": "STOP"} | more
        return {
            "id": _generation(),
            "object": "chat.completion",
            "created": _CREATED,
            "model": "simulated/model",
            "system_fingerprint": None,
            "choices": [{"index": 0, "message": message, **finished}],
            "usage": _usage(call),
        }


class _ImagesWire(_Wire):
    beginning = b'{"created":1760000000,"data":[{"b64_json":"iVBORw0KGgo'

    def _prompt(self, fields: dict[str, Any]) -> str:
        return str(fields.get("prompt") or "")

    def _problem(self, fields: dict[str, Any]) -> Response | None:
        size = fields.get("size")
        checks: list[tuple[bool, str]] = [
            (bool(fields.get("model")), "model is required."),
            (bool(self._prompt(fields)), "prompt is required."),
            (fields.get("n", 1) == 1, "This provider makes one image a request."),
            (fields.get("aspect_ratio", "1:1") in IMAGES_RATIOS, "aspect_ratio is not supported."),
            (size is None or all(16 <= side <= 8192 for side in _pixels(size)), "size is not supported."),
            # As documented: a size in pixels is authoritative, and a mismatch is refused.
            (size is None or "aspect_ratio" not in fields, "size and aspect_ratio do not go together."),
        ]
        return _first_problem(checks)

    def _size(self, fields: dict[str, Any]) -> tuple[int, int]:
        if "size" in fields:
            return _pixels(fields["size"])
        return CHAT_RATIOS.get(fields.get("aspect_ratio", "1:1"), (1024, 1024))

    def _document(self, pictures: list[bytes], call: Call, **more: Any) -> dict[str, Any]:  # noqa: ARG002
        data = [
            {"b64_json": base64.b64encode(picture).decode(), "media_type": "image/png"}
            for picture in pictures
        ]
        return {"created": _CREATED, "data": data, "usage": _usage(call)}


def _charge(call: Call, tokens: int) -> None:
    call.cost, call.currency = tokens * USD_PER_TOKEN, "USD"


def _usage(call: Call) -> dict[str, Any]:
    made = int(call.cost / USD_PER_TOKEN)
    return {"prompt_tokens": 6, "completion_tokens": made, "total_tokens": 6 + made, "cost": float(call.cost)}


def _parts(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The content of all messages as parts."""
    parts: list[dict[str, Any]] = []
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        listed = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts += [part for part in listed or [] if isinstance(part, dict)]
    return parts


def _files(fields: dict[str, Any]) -> tuple[SentFile, ...]:
    """The pictures that came along as data URLs, on either endpoint."""
    references = fields.get("input_references")
    named: list[tuple[str, Any]] = [("messages", part) for part in _parts(fields)]
    named += [("input_references", part) for part in (references if isinstance(references, list) else [])]
    return tuple(file for name, part in named if (file := file_in(name, part)) is not None)


def _pixels(size: object) -> tuple[int, int]:
    width, _, height = str(size).partition("x")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)


def _first_problem(checks: list[tuple[bool, str]]) -> Response | None:
    problem = next((sentence for holds, sentence in checks if not holds), None)
    return None if problem is None else _error(400, problem, error_type="invalid_request")


def _error(status: int, message: str, headers: dict[str, str] | None = None, **metadata: Any) -> Response:
    return _json({"error": {"code": status, "message": message, "metadata": metadata}}, status, headers)


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, media_type="application/json")


def _generation() -> str:
    return f"gen-{secrets.token_hex(8)}"
