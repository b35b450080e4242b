"""litellm, a gateway's client that many use instead of the vendors' own: one picture."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import litellm
from lines import serve


def call(
    base_url: str, api_key: str, fields: Mapping[str, Any], timeout_s: float = 20, max_retries: int = 0
) -> Mapping[str, Any]:
    answer = litellm.image_generation(
        api_base=base_url, api_key=api_key, timeout=timeout_s, max_retries=max_retries, **fields
    )
    pictures = [base64.b64decode(item.b64_json or "") for item in answer.data or ()]
    return {"sha256": [hashlib.sha256(picture).hexdigest() for picture in pictures]}


def told(error: Exception) -> Mapping[str, Any]:
    return {"status": getattr(error, "status_code", None)}


if __name__ == "__main__":
    serve(call, told)
