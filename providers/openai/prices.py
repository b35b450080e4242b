"""The cost of a call at OpenAI's list price: the tokens that its `usage` reports, by the price of each sort.

Prices of November 2026 in USD for a million tokens (source: the price map of litellm 1.106.2). A model without a price
here has no cost: none is better than a wrong one. Gateways may charge another price.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

# Of text read, pictures read and pictures made, by the version of gpt-image.
_PER_MILLION = {"2": (5, 8, 30), "2.5": (5, 8, 30)}
_MODEL = re.compile(r"gpt-image-(\d+(?:\.\d+)?)(?:-(?:sunburst|flare))?(?:-\d{4}-\d{2}-\d{2})?")


def cost_of(model: str, usage: Mapping[str, Any], *, edited: bool) -> Decimal | None:
    """The cost in USD; None if the price or the tokens are not known.

    `edited`: the call had input pictures. Their tokens cost more than tokens of text, so the answer must count both
    sorts.
    """
    found = _MODEL.fullmatch(model.rpartition("/")[2].lower())
    prices = _PER_MILLION.get(found[1]) if found else None
    if prices is None:
        return None
    inputs = _input_tokens(usage, edited=edited)
    made = _count(usage.get("output_tokens"))
    if inputs is None or made is None:
        return None
    text, image = inputs
    return Decimal(text * prices[0] + image * prices[1] + made * prices[2]) / 1_000_000


def _input_tokens(usage: Mapping[str, Any], *, edited: bool) -> tuple[int, int] | None:
    """The input tokens: (text, image)."""
    details = usage.get("input_tokens_details")
    if isinstance(details, dict):
        text, image = _count(details.get("text_tokens")), _count(details.get("image_tokens"))
        return None if text is None or image is None else (text, image)
    total = _count(usage.get("input_tokens"))
    return None if edited or total is None else (total, 0)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
