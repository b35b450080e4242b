"""litellm, a gateway's client that many use instead of the vendors' own: pictures, generated or edited."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import litellm
from lines import serve


def call(
    base_url: str,
    api_key: str,
    fields: Mapping[str, Any],
    timeout_s: float = 20,
    max_retries: int = 0,
    images: tuple[tuple[str, str, str], ...] = (),  # name, base64, type
    mask: tuple[str, str, str] | None = None,
) -> Mapping[str, Any]:
    account = {"api_base": base_url, "api_key": api_key, "timeout": timeout_s, "max_retries": max_retries}
    if images:
        masked = {} if mask is None else {"mask": _bytes(mask)}
        given = {**fields, **masked}
        answer = litellm.image_edit(image=[_bytes(image) for image in images], **account, **given)
    else:
        answer = litellm.image_generation(**account, **fields)
    pictures = [base64.b64decode(item.b64_json or "") for item in answer.data or ()]
    return {"sha256": [hashlib.sha256(picture).hexdigest() for picture in pictures]}


def _bytes(image: tuple[str, str, str]) -> bytes:
    return base64.b64decode(image[1])


def told(error: Exception) -> Mapping[str, Any]:
    return {"status": getattr(error, "status_code", None)}


if __name__ == "__main__":
    serve(call, told)
