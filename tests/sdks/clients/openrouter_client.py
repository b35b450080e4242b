"""OpenRouter's own SDK, on both of its ways to a picture: chat completions and the images endpoint."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from lines import serve
from openrouter import OpenRouter
from openrouter.errors import OpenRouterError
from openrouter.utils import BackoffStrategy, RetryConfig

ONCE = RetryConfig("none", BackoffStrategy(0, 0, 0, 0), retry_connection_errors=False)


def call(
    op: str, base_url: str, api_key: str, fields: Mapping[str, Any], timeout_s: float = 20
) -> Mapping[str, Any]:
    with OpenRouter(
        api_key=api_key, server_url=base_url, timeout_ms=int(timeout_s * 1000), retry_config=ONCE
    ) as client:
        if op == "images":
            answer = client.images.generate(**fields)
            encoded = [item.b64_json for item in answer.data]
        else:
            answer = client.chat.send(**fields)
            encoded = [
                image.image_url.url.partition(",")[2]
                for choice in answer.choices
                for image in choice.message.images or ()
            ]
    return {
        "sha256": [hashlib.sha256(base64.b64decode(text)).hexdigest() for text in encoded],
        "cost": answer.usage.cost if answer.usage else None,
    }


def told(error: Exception) -> Mapping[str, Any]:
    if not isinstance(error, OpenRouterError):
        return {}
    return {"status": error.status_code, "retry_after": error.headers.get("retry-after")}


if __name__ == "__main__":
    serve(call, told)
