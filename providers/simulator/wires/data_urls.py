"""Pictures that come to the simulator inside JSON, as `data:` URLs."""

from __future__ import annotations

import base64
import binascii

from providers.simulator.ledger import SentFile


def file_in(name: str, part: object) -> SentFile | None:
    """The picture of `{"type": "image_url", "image_url": {"url": "data:..."}}`; None for any other part."""
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
