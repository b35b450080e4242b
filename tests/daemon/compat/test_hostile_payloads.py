"""A text that all pictures of a payload share is measured before it is copied for each of them."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.compat.slides import slide_batch
from daemon.compat.studio import studio_batch
from pixmill.contract import Rejection

LONG = 400_000_000  # a thousand copies of so many characters fit into no memory


@pytest.fixture(scope="module")
def long() -> str:
    """Made only for these tests: each worker of a run imports every module."""
    return "x" * LONG


def deck(**fields: Any) -> dict[str, Any]:
    return {"slides": [{"id": str(k), "title": "t"} for k in range(1000)], **fields}


def test_a_long_style_is_refused_at_the_first_slide(long: str) -> None:
    with pytest.raises(Rejection, match="has 400000001 characters together with the style") as caught:
        slide_batch(deck(style_prompt=long), route="slides")
    assert caught.value.field == "slides.0"


def test_long_templates_are_refused_at_the_first_picture(long: str) -> None:
    pictures = [{"url": "https://cdn.example/a.jpg", "stem": str(k)} for k in range(1000)]
    options = {"sku_images_map": {"s": pictures}, "prompt_templates": {"common_cn": long}}
    payload = {"job_id": "a", "mode": "batch_main_generate", "options": options}
    with pytest.raises(Rejection, match="make a prompt of 400000000 characters") as caught:
        studio_batch(payload, route="studio")
    assert caught.value.field == "options.prompt_templates"
