"""OpenRouter's two ways to a picture: what each is sent, and where in its answer the pictures are.

`chat` asks a chat model for pictures, with `modalities` and `image_config`; `images` is the endpoint for nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Protocol

from providers.base import InputImage, Request
from providers.openrouter.models import CHAT_PARAMS, IMAGES_PARAMS, chat_config, images_size, modalities


class Wire(Protocol):
    """One way. `params` are the parameters that it has, with their values where those are limited."""

    path: str
    params: Mapping[str, tuple[str, ...]]
    resolution: str  # the parameter that names a resolution

    def sized(self, size: str | None) -> dict[str, str]:
        """What a job's size becomes; raises ValueError with what is accepted."""
        ...

    def fields(self, request: Request, outputs: tuple[str, ...]) -> dict[str, Any]:
        """The body for a checked request. `outputs`: the modalities to ask for; empty: as the model's name says."""
        ...

    def choice(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The one answer inside the document, with its error and finish reasons; empty if there is none."""
        ...

    def items(self, document: Mapping[str, Any]) -> object:
        """What should be a list of pictures."""
        ...


class ChatWire:
    """Chat completions."""

    path = "/chat/completions"
    params: Mapping[str, tuple[str, ...]] = CHAT_PARAMS
    resolution = "image_size"

    def sized(self, size: str | None) -> dict[str, str]:
        return chat_config(size)

    def fields(self, request: Request, outputs: tuple[str, ...]) -> dict[str, Any]:
        rest = dict(request.params)
        size = rest.pop("image_size", None)
        config = {**chat_config(request.size), **({} if size is None else {"image_size": size})}
        content = [{"type": "text", "text": request.prompt}, *map(_part, request.inputs)]
        return {
            **rest,
            "model": request.model,
            "messages": [{"role": "user", "content": content if request.inputs else request.prompt}],
            "modalities": list(outputs) or modalities(request.model),
            "image_config": config or None,
            "seed": request.seed,
            "stream": False,
        }

    def choice(self, document: Mapping[str, Any]) -> dict[str, Any]:
        choices = document.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        return first if isinstance(first, dict) else {}

    def items(self, document: Mapping[str, Any]) -> object:
        message = self.choice(document).get("message")
        if not isinstance(message, dict):
            return []
        # Some providers' pictures stand among the parts of the content instead.
        content = message.get("content")
        return message.get("images") or (content if isinstance(content, list) else [])


class ImagesWire:
    """The images endpoint. Files come in the model's own format: not every model takes `output_format`."""

    path = "/images"
    params: Mapping[str, tuple[str, ...]] = IMAGES_PARAMS
    resolution = "resolution"

    def sized(self, size: str | None) -> dict[str, str]:
        return images_size(size)

    def fields(self, request: Request, outputs: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG002 (as Wire)
        return {
            **request.params,
            "model": request.model,
            "prompt": request.prompt,
            "n": 1,
            **images_size(request.size),
            "seed": request.seed,
            "input_references": [_part(image) for image in request.inputs] or None,
        }

    def choice(self, document: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 (as Wire)
        return {}

    def items(self, document: Mapping[str, Any]) -> object:
        return document.get("data") or []


WIRES: dict[str, Wire] = {"chat": ChatWire(), "images": ImagesWire()}


def _part(image: InputImage) -> dict[str, Any]:
    """An input as a data URL: its address is not for a provider to fetch by rules of its own."""
    encoded = base64.b64encode(image.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{image.content_type};base64,{encoded}"}}
