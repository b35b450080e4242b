"""OpenAI's own SDK, of either major version: pictures, generated or edited, at once, as a stream, or polled."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lines import serve
from openai import APIError, OpenAI
from openai.types import ImageEditCompletedEvent, ImageGenCompletedEvent, ImagesResponse

EVENTS = {
    "image_generation.completed": ImageGenCompletedEvent,
    "image_edit.completed": ImageEditCompletedEvent,
}
POLL_S = 0.1


def call(
    base_url: str,
    api_key: str,
    fields: Mapping[str, Any],
    timeout_s: float = 20,
    max_retries: int = 0,
    images: tuple[tuple[str, str, str], ...] = (),  # name, base64, type
    mask: tuple[str, str, str] | None = None,
    together: int = 1,
) -> Mapping[str, Any]:
    """The result of one call; of several at the same time, their pictures. `stream` in `fields`: its events."""
    client = OpenAI(base_url=base_url, api_key=api_key, timeout=timeout_s, max_retries=max_retries)
    fields = {**fields}
    if images:
        fields["image"] = [_file(image) for image in images]
    if mask is not None:
        fields["mask"] = _file(mask)
    with client:
        if fields.get("stream"):
            return _streamed(client, fields)
        if together > 1:
            with ThreadPoolExecutor(together) as pool:
                answers = list(pool.map(lambda _: _answered(client, fields), range(together)))
            return {
                name: [each for answer in answers for each in answer[name]] for name in ("sha256", "urls")
            }
        return _answered(client, fields)


def _answered(client: OpenAI, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    raw = _method(client.images.with_raw_response, fields)(**fields)
    status, address = raw.http_response.status_code, raw.headers.get("location")
    if status == 202:
        return _polled(client, address)
    parsed = raw.parse()
    # The SDK takes whatever comes; its types say what the vendor promises.
    ImagesResponse.model_validate_json(raw.text)
    pictures = [base64.b64decode(item.b64_json or "") for item in parsed.data or ()]
    return {
        "sha256": [hashlib.sha256(picture).hexdigest() for picture in pictures],
        "urls": [item.url for item in parsed.data or ()],
        "usage": parsed.usage.model_dump() if parsed.usage else None,
        "request_id": raw.headers.get("x-request-id"),
    }


def _streamed(client: OpenAI, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    events, names = [], []
    for event in _method(client.images, fields)(**fields):
        checked = EVENTS[event.type].model_validate(event.to_dict())
        events.append(checked.type)
        names.append(hashlib.sha256(base64.b64decode(checked.b64_json)).hexdigest())
    return {"events": events, "sha256": names}


def _polled(client: OpenAI, address: str) -> Mapping[str, Any]:
    seen = []
    while not seen or seen[-1] == "processing":
        if seen:
            time.sleep(POLL_S)
        task: Any = client.get(address, cast_to=object)
        seen.append(task["status"])
    return {"task": task, "statuses": sorted(set(seen))}


def _method(images: Any, fields: Mapping[str, Any]) -> Any:
    return images.edit if "image" in fields else images.generate


def _file(image: tuple[str, str, str]) -> tuple[str, bytes, str]:
    name, data, type_ = image
    return name, base64.b64decode(data), type_


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
        "location": None if response is None else response.headers.get("location"),
    }


if __name__ == "__main__":
    serve(call, told)
