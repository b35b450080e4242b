"""OpenAI's own SDK, of either major version: one picture, generated or edited."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from lines import serve
from openai import APIError, OpenAI
from openai.types import ImagesResponse


def call(
    base_url: str,
    api_key: str,
    fields: Mapping[str, Any],
    timeout_s: float = 20,
    max_retries: int = 0,
    images: tuple[tuple[str, str, str], ...] = (),  # name, base64, type
) -> Mapping[str, Any]:
    client = OpenAI(base_url=base_url, api_key=api_key, timeout=timeout_s, max_retries=max_retries)
    with client:
        if images:
            files = [(name, base64.b64decode(data), type_) for name, data, type_ in images]
            raw = client.images.with_raw_response.edit(image=files, **fields)
        else:
            raw = client.images.with_raw_response.generate(**fields)
        parsed = raw.parse()
        # The SDK takes whatever comes; its types say what the vendor promises.
        ImagesResponse.model_validate_json(raw.text)
    pictures = [base64.b64decode(item.b64_json or "") for item in parsed.data or ()]
    return {
        "sha256": [hashlib.sha256(picture).hexdigest() for picture in pictures],
        "usage": parsed.usage.model_dump() if parsed.usage else None,
        "request_id": raw.headers.get("x-request-id"),
    }


def told(error: Exception) -> Mapping[str, Any]:
    if not isinstance(error, APIError):
        return {}
    response = getattr(error, "response", None)
    return {
        "code": error.code,
        "type": error.type,
        "param": error.param,
        "status": getattr(error, "status_code", None),
        "request_id": getattr(error, "request_id", None),
        "retry_after": None if response is None else response.headers.get("retry-after"),
    }


if __name__ == "__main__":
    serve(call, told)
