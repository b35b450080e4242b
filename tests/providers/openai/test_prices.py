"""The cost of a call to OpenAI: exact arithmetic over tokens, and no figure where one would be a guess."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.openai.models import cost_of

tokens = st.integers(0, 10**9)


def usage(text: int, image: int, made: int) -> dict[str, Any]:
    details = {"text_tokens": text, "image_tokens": image}
    return {"input_tokens": text + image, "input_tokens_details": details, "output_tokens": made}


@given(tokens, tokens, tokens)
def test_each_sort_of_token_has_its_price_and_no_digit_is_lost(text: int, image: int, made: int) -> None:
    cost = cost_of("gpt-image-2", usage(text, image, made), edited=True)
    assert cost is not None
    assert cost * 1_000_000 == 5 * text + 8 * image + 30 * made


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("gpt-image-2", True),
        ("openai/gpt-image-2", True),
        ("GPT-Image-2", True),
        ("gpt-image-2-2026-04-21", True),
        ("gpt-image-2.5-sunburst", True),
        ("gpt-image-2.5-flare", True),
        ("gpt-image-2.6-flare", False),
        ("gpt-image-2-mini", False),
        ("gpt-image-1.5", False),
        ("gpt-image-1-mini", False),
        ("dall-e-3", False),
        ("flux-pro", False),
    ],
)
def test_only_models_whose_prices_are_known_have_a_cost(model: str, known: bool) -> None:
    assert (cost_of(model, usage(10, 0, 272), edited=False) is not None) is known


def test_without_details_all_input_is_text_unless_pictures_were_sent() -> None:
    reported = {"input_tokens": 10, "output_tokens": 272, "total_tokens": 282}
    assert cost_of("gpt-image-2", reported, edited=False) == Decimal("0.00821")
    assert cost_of("gpt-image-2", reported, edited=True) is None


@pytest.mark.parametrize(
    "reported",
    [
        {},
        {"input_tokens": 10},
        {"output_tokens": 272},
        {"input_tokens": "10", "output_tokens": 272},
        {"input_tokens": -1, "output_tokens": 272},
        {"input_tokens": True, "output_tokens": 272},
        {"input_tokens": 10, "output_tokens": 2.5},
        {"input_tokens": 10, "input_tokens_details": {"text_tokens": 10}, "output_tokens": 272},
    ],
)
def test_a_usage_with_too_little_or_nonsense_gives_no_cost(reported: dict[str, Any]) -> None:
    assert cost_of("gpt-image-2", reported, edited=False) is None
