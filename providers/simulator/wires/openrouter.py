"""OpenRouter as the simulator speaks it: chat completions that draw, images, the limit of a key, and the models.

It bills as OpenRouter does: the generated tokens, as `usage.cost`, even if they gave no picture.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from abc import abstractmethod
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.openrouter.models import CHAT_RATIOS, IMAGES_RATIOS
from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine
from providers.simulator.faults import FaultKind
from providers.simulator.ledger import Call, SentFile
from providers.simulator.pictures import NOT_A_PICTURE
from providers.simulator.wires.base import CallWire, Check, Fields, json_response, sides, wait_headers

IMAGE_TOKENS = 1290  # of one picture
TEXT_TOKENS = 12  # of an answer in words
USD_PER_TOKEN = Decimal(30) / 1_000_000
_CREATED = 1_760_000_000
_TIERS = {"1K": 1, "2K": 2, "4K": 4}


class _OpenRouterWire(CallWire):
    """The words of refusals, and the bill."""

    @abstractmethod
    def _size(self, fields: Fields) -> tuple[int, int]:
        """In pixels, of valid fields."""

    @abstractmethod
    def _document(self, pictures: list[bytes], call: Call, **more: Any) -> dict[str, Any]:
        """An answer with `pictures`; `more` is for chat completions, to say why there is none."""

    def refusal(self, kind: FaultKind, wait_s: float | None = None) -> Response:
        if kind is FaultKind.BILLING and wait_s is not None:
            message = "Your in-flight spending budget is used up by running requests."
            return _error(402, message, wait_s, limit_source="openrouter_in_flight_budget")
        status, message, metadata = _REFUSALS.get(kind, _REFUSALS[FaultKind.SERVER_ERROR])
        return _error(status, message, wait_s, **metadata)

    def _invalid(self, message: str, code: str = "", param: str = "") -> Response:  # noqa: ARG002 (only words)
        return _error(400, message, error_type="invalid_request")

    def _spoilt(self, kind: FaultKind, call: Call) -> Response:
        match kind:
            case FaultKind.EMPTY:
                _charge(call, TEXT_TOKENS)
                why = {"native_finish_reason": "NO_IMAGE", "content": "A fine idea!"}
                return json_response(self._document([], call, **why))
            case FaultKind.WITHHELD:
                _charge(call, IMAGE_TOKENS)
                why = {"finish_reason": "content_filter", "native_finish_reason": "IMAGE_SAFETY"}
                return json_response(self._document([], call, **why))
            case FaultKind.ERROR_INSIDE:
                error = {"code": 502, "message": "Provider returned error", "metadata": {"raw": "boom"}}
                return json_response({"id": _generation(), "error": error})
            case FaultKind.NOT_A_PICTURE:
                _charge(call, IMAGE_TOKENS)
                return json_response(self._document([NOT_A_PICTURE], call))
            case FaultKind.MODERATION:
                return _error(403, "The input was flagged.", **_FLAGGED, flagged_input=call.prompt[:40])
            case _:
                return self.refusal(kind)

    def _bill(self, call: Call) -> None:
        super()._bill(call)
        _charge(call, IMAGE_TOKENS)

    def _drawing(self, fields: Fields) -> Drawing:
        seed = fields.get("seed")
        return self._engine.drawing(
            self._prompt(fields), seed if isinstance(seed, int) else None, self._size(fields)
        )

    async def _served(self, request: Request, fields: Fields, call: Call) -> Response:  # noqa: ARG002 (as the base)
        picture = await self._engine.work(self._drawing(fields))
        return json_response(self._document([picture], call))


class ChatWire(_OpenRouterWire):
    """Chat completions."""

    beginning = (
        b'{"id":"gen-1","choices":[{"index":0,"message":{"images":[{"image_url":{"url":"data:image/png;base'
    )

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.routes = [Route("/api/v1/chat/completions", self.submit, methods=["POST"])]

    def _prompt(self, fields: Fields) -> str:
        return "".join(part.get("text", "") for part in _parts(fields) if part.get("type") == "text")

    def _files(self, fields: Fields) -> tuple[SentFile, ...]:
        return _files("messages", _parts(fields))

    def _checks(self, fields: Fields) -> Iterator[Check]:
        config = fields.get("image_config") or {}
        yield isinstance(config, dict), "image_config must be an object."
        yield bool(fields.get("model")), "model is required."
        yield bool(self._prompt(fields)), "A message with text is required."
        # Without modalities, as litellm sends it, a model for pictures makes one.
        yield "image" in fields.get("modalities", ["image"]), "modalities must name image."
        yield config.get("aspect_ratio", "1:1") in CHAT_RATIOS, "aspect_ratio is not supported."
        yield config.get("image_size", "1K") in _TIERS, "image_size is not supported."
        yield fields.get("stream", False) is False, "The simulator does not stream."

    def _size(self, fields: Fields) -> tuple[int, int]:
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


class ImagesWire(_OpenRouterWire):
    """The images endpoint, the rest of a key's limit, and the models that draw."""

    beginning = b'{"created":1760000000,"data":[{"b64_json":"iVBORw0KGgo'

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.routes = [
            Route("/api/v1/images", self.submit, methods=["POST"]),
            Route("/api/v1/key", self._keyed(self._key_limits), methods=["GET"]),
            Route("/api/v1/models", self._keyed(self._models), methods=["GET"]),
        ]

    async def _models(self, _request: Request, _key: str) -> Response:
        return json_response({"data": [{"id": name} for name in ("google/gemini-3.1-flash-image", "sim-1")]})

    async def _key_limits(self, _request: Request, _key: str) -> Response:
        limits = {"limit": None, "limit_remaining": None, "limit_reset": None, "is_free_tier": False}
        spent = float(self._engine.ledger.costs().get("USD", Decimal(0)))
        return json_response({"data": {"label": "sk-or-v1-sim...", "usage": spent, **limits}})

    def _files(self, fields: Fields) -> tuple[SentFile, ...]:
        return _files("input_references", fields.get("input_references"))

    def _checks(self, fields: Fields) -> Iterator[Check]:
        size = fields.get("size")
        yield bool(fields.get("model")), "model is required."
        yield bool(self._prompt(fields)), "prompt is required."
        yield fields.get("n", 1) == 1, "This provider makes one image a request."
        yield fields.get("aspect_ratio", "1:1") in IMAGES_RATIOS, "aspect_ratio is not supported."
        yield size is None or all(16 <= side <= 8192 for side in sides(size)), "size is not supported."
        # As documented: a size in pixels is authoritative, and a mismatch is refused.
        yield size is None or "aspect_ratio" not in fields, "size and aspect_ratio do not go together."

    def _size(self, fields: Fields) -> tuple[int, int]:
        if "size" in fields:
            return sides(fields["size"])
        return CHAT_RATIOS.get(fields.get("aspect_ratio", "1:1"), (1024, 1024))

    def _document(self, pictures: list[bytes], call: Call, **more: Any) -> dict[str, Any]:  # noqa: ARG002 (as the base)
        data = [
            {"b64_json": base64.b64encode(picture).decode(), "media_type": "image/png"}
            for picture in pictures
        ]
        return {"created": _CREATED, "data": data, "usage": _usage(call)}


_UPSTREAM = {
    "error_type": "rate_limit_exceeded",
    "provider_name": "Simulated AI",
    "raw": '{"error":{"message":"Temporarily rate-limited upstream."}}',
}
_FLAGGED: dict[str, Any] = {
    "error_type": "content_policy_violation",
    "reasons": ["violence"],
    "provider_name": "Simulated AI",
}
_REFUSALS: dict[FaultKind, tuple[int, str, dict[str, Any]]] = {
    FaultKind.RATE_LIMIT: (429, "Provider returned error", _UPSTREAM),
    # No canonical type names this limit, so only the words do.
    FaultKind.CONCURRENCY: (429, "Too many concurrent requests.", {}),
    FaultKind.BILLING: (402, "Insufficient credits.", {"limit_source": "openrouter_credits"}),
    FaultKind.OVERLOADED: (503, "No provider is available.", {"error_type": "provider_overloaded"}),
    FaultKind.AUTH: (401, "User not found.", {"error_type": "authentication"}),
    FaultKind.SERVER_ERROR: (500, "Internal server error.", {"error_type": "server"}),
}


def _charge(call: Call, tokens: int) -> None:
    call.cost, call.currency = tokens * USD_PER_TOKEN, "USD"


def _usage(call: Call) -> dict[str, Any]:
    made = int(call.cost / USD_PER_TOKEN)
    return {"prompt_tokens": 6, "completion_tokens": made, "total_tokens": 6 + made, "cost": float(call.cost)}


def _parts(fields: Fields) -> list[dict[str, Any]]:
    """The content of all messages as parts."""
    parts: list[dict[str, Any]] = []
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        listed = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts += [part for part in listed or [] if isinstance(part, dict)]
    return parts


def _files(name: str, parts: object) -> tuple[SentFile, ...]:
    """The pictures among `parts`, each `{"type": "image_url", "image_url": {"url": "data:..."}}`."""
    found = (_file(name, part) for part in (parts if isinstance(parts, list) else []))
    return tuple(file for file in found if file is not None)


def _file(name: str, part: object) -> SentFile | None:
    holder = part.get("image_url") if isinstance(part, dict) else None
    url = holder.get("url") if isinstance(holder, dict) else None
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    head, _, encoded = url.removeprefix("data:").partition(",")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
    return SentFile.of(name, head.removesuffix(";base64"), data)


def _error(status: int, message: str, wait_s: float | None = None, **metadata: Any) -> Response:
    error = {"code": status, "message": message, "metadata": metadata}
    return json_response({"error": error}, status, wait_headers(wait_s))


def _generation() -> str:
    return f"gen-{secrets.token_hex(8)}"
