"""OpenRouter: pictures from models of many makers with one key, by chat completions or by its images endpoint.

One POST makes one picture, and its `usage` reports the cost. An answer of 200 may hold an error, or only words.
"""

from __future__ import annotations

import base64
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import httpx2

from providers.base import Capabilities, CredentialCheck, InputImage, Request
from providers.errors import ProviderError
from providers.http.client import Answer
from providers.openrouter.errors import no_picture, refusal, request_id_of
from providers.openrouter.models import (
    CHAT_PARAMS,
    IMAGES_PARAMS,
    MAX_INPUT_BYTES,
    MAX_INPUTS,
    MAX_PROMPT_CHARS,
    SEED_RANGE,
    chat_config,
    images_size,
    modalities,
)
from providers.shared import checks
from providers.shared.account import check_options, chosen, listed, secret_of
from providers.shared.answers import PICTURE_FIELDS, amount, error_in, listed_models, word
from providers.shared.provider import OneCallProvider

DEFAULT_BASE_URL = "https://openrouter.ai/api/v1"

_OPTIONS = ("wire", "modalities", "referer", "title", "params", "allow_hosts")


def create(
    *, base_url: str | None, secrets: Mapping[str, str], options: Mapping[str, str]
) -> OpenRouterProvider:
    """A provider for one credential; raises ValueError with a sentence.

    Secrets: `api_key`. Options: `wire` ("chat", the default, or "images"), `modalities` ("image" or "image,text",
    for models whose name does not decide), `params` (further parameter names to let through, by comma),
    `allow_hosts` (hosts, by comma, whose result addresses may be plain http or private), `referer` and `title`
    (OpenRouter shows them as the application; without them nothing is sent).
    """
    check_options("openrouter", options, _OPTIONS)
    wire = _WIRES[chosen(options, "wire", _WIRES, default="chat")]
    if not set(listed(options.get("modalities"))) <= {"image", "text"}:
        raise ValueError('The option \'modalities\' is "image" or "image,text".')
    return wire(base_url or DEFAULT_BASE_URL, secret_of("openrouter", secrets), options)


class OpenRouterProvider(OneCallProvider):
    """One account at OpenRouter; a subclass is one of its wires. Credits are dollars."""

    name = "openrouter"
    option_headers: Mapping[str, str] = {"referer": "HTTP-Referer", "title": "X-Title"}
    path: str
    params: Mapping[str, tuple[str, ...]]  # its parameters, with their values where those are limited
    resolution: str  # the parameter that names a resolution

    sized: Callable[[str | None], dict[str, str]]  # the fields for a job's size; raises ValueError

    @abstractmethod
    def _fields(self, request: Request) -> dict[str, Any]:
        """The body for a checked request."""

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 (the interface's signature)
        """See Provider.capabilities. OpenRouter documents no differences between models."""
        return Capabilities(
            mode="sync",
            max_prompt_chars=MAX_PROMPT_CHARS,
            max_inputs=MAX_INPUTS,
            seed_range=SEED_RANGE,
            url_ttl_s=None,
            currency=self.currency,
        )

    def check(self, request: Request) -> None:
        """See Provider.check."""
        checks.prompts(request, max_chars=MAX_PROMPT_CHARS, has_negative=False)
        checks.convertible("size", request.size, self.sized)
        if self.resolution in request.params and request.size is not None and "x" in request.size:
            message = f"The size {request.size} is in pixels already; leave {self.resolution} out."
            raise checks.invalid(f"params.{self.resolution}", message)
        checks.seed(request.seed, SEED_RANGE)
        checks.inputs(request, max_inputs=MAX_INPUTS, max_bytes=MAX_INPUT_BYTES)
        checks.output(request, encodes=False)
        limited = {name: values for name, values in self.params.items() if values}
        checks.params(request, {*self.params, *self._extra_params}, limited)

    async def check_credential(self, *, timeout_s: float) -> CredentialCheck:
        """See ChecksCredential. The rest of a key's own limit is shown for free; the account's credit is not."""
        answer = await self._checked("/key", timeout_s / 2)
        if isinstance(answer, CredentialCheck):
            return answer
        data = answer.get("data")
        if not isinstance(data, dict):
            return CredentialCheck(None, f"{self._host}/key says nothing about the key; is base_url right?")
        left = data.get("limit_remaining")
        rest = ", which has no limit of its own"
        if isinstance(left, int | float):
            if left <= 0:
                return CredentialCheck(
                    False, f"The key's own limit at {self._host} is used up: raise it there."
                )
            rest = f"; {left:g} USD of its limit are left"
        return CredentialCheck(
            True, f"{self._host} accepts the key{rest}.", await self._drawing(timeout_s / 2)
        )

    async def _drawing(self, timeout_s: float) -> frozenset[str]:
        """The models that draw; empty where the list cannot be read. Source: openrouter.ai/docs/models (2026-11)."""
        answer = await self._checked("/models?output_modalities=image", timeout_s)
        return frozenset() if isinstance(answer, CredentialCheck) else listed_models(answer)

    def _submit_request(self, request: Request) -> httpx2.Request:
        return self._post(self.path, self._fields(request))

    def _refusal(self, answer: Answer, error: dict[str, Any]) -> ProviderError:
        return refusal(answer, self._host, error)

    def _no_picture(self, answer: Answer, document: dict[str, Any], request_id: str | None) -> ProviderError:
        return no_picture(_choice(document), answer, self._host, request_id)

    def _request_id(self, answer: Answer, document: dict[str, Any]) -> str | None:
        return request_id_of(answer) or word(document.get("id")) or None

    def _cost(self, request: Request, usage: dict[str, Any]) -> Decimal | None:  # noqa: ARG002 (as the base)
        return amount(usage.get("cost"))


class ChatProvider(OpenRouterProvider):
    """Chat completions: `modalities` and `image_config` make a chat model draw."""

    path = "/chat/completions"
    params = CHAT_PARAMS
    resolution = "image_size"
    sized = staticmethod(chat_config)

    def _fields(self, request: Request) -> dict[str, Any]:
        rest = dict(request.params)
        size = rest.pop("image_size", None)
        config = {**chat_config(request.size), **({} if size is None else {"image_size": size})}
        content = [{"type": "text", "text": request.prompt}, *map(_part, request.inputs)]
        return {
            **rest,
            "model": request.model,
            "messages": [{"role": "user", "content": content if request.inputs else request.prompt}],
            "modalities": list(listed(self._options.get("modalities"))) or modalities(request.model),
            "image_config": config or None,
            "seed": request.seed,
            "stream": False,
        }

    def _error_in(self, document: dict[str, Any]) -> dict[str, Any]:
        inside = _choice(document).get("error")
        return error_in(document) or (inside if isinstance(inside, dict) else {})

    def _items(self, document: dict[str, Any]) -> object:
        message = _choice(document).get("message")
        if not isinstance(message, dict):
            return []
        return message.get("images") or _items_of_content(message.get("content"))


class ImagesProvider(OpenRouterProvider):
    """The images endpoint. Files come in the model's own format: not every model takes `output_format`."""

    path = "/images"
    params = IMAGES_PARAMS
    resolution = "resolution"
    sized = staticmethod(images_size)

    def _fields(self, request: Request) -> dict[str, Any]:
        return {
            **request.params,
            "model": request.model,
            "prompt": request.prompt,
            "n": 1,
            **images_size(request.size),
            "seed": request.seed,
            "input_references": [_part(image) for image in request.inputs] or None,
        }


_WIRES: dict[str, type[OpenRouterProvider]] = {"chat": ChatProvider, "images": ImagesProvider}


def _choice(document: Mapping[str, Any]) -> dict[str, Any]:
    """The one choice of a chat, with its error and finish reasons; empty if there is none."""
    choices = document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _items_of_content(content: object) -> list[object]:
    """The pictures that some providers put into a chat's content: as its parts, or else as Markdown inside its text."""
    parts = content if isinstance(content, list) else [{"text": content}]
    known = [part for part in parts if isinstance(part, dict)]
    pictures: list[object] = [part for part in known if any(part.get(name) for name in PICTURE_FIELDS)]
    if pictures:
        return pictures
    texts = [text for part in known if isinstance(text := part.get("text"), str)]
    return [{"url": found} for text in texts for found in _MARKDOWN_PICTURE.findall(text)]


# It is open at its end, and no caption holds a bracket: so a hostile text takes no longer than any other.
_MARKDOWN_PICTURE = re.compile(r"!\[[^][\n]*\]\(\s*<?(data:image/[^)>\"]+|https?://[^)>\"\s]+)")


def _part(image: InputImage) -> dict[str, Any]:
    """An input as a data URL: a provider must not fetch its address by rules of its own."""
    encoded = base64.b64encode(image.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{image.content_type};base64,{encoded}"}}
