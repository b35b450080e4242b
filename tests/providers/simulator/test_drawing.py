"""Pictures: real ones, the same for the same request, different for different ones."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from providers.simulator.drawing import Drawing, draw
from providers.simulator.products import product_for

MUG = Drawing("a ceramic mug", 7, 256, 256)


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
    picture.load()
    return picture.convert("RGB")


def test_the_same_request_gives_the_same_bytes() -> None:
    assert draw(MUG) == draw(replace(MUG))


@pytest.mark.parametrize("other", [replace(MUG, prompt="a watch"), replace(MUG, seed=8)])
def test_people_can_tell_two_pictures_apart(other: Drawing) -> None:
    difference = ImageChops.difference(opened(draw(MUG)), opened(draw(other))).convert("L")
    changed = sum(difference.histogram()[24:])
    assert changed > 0.02 * 256 * 256


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(
    "size", [(1024, 1024), (1536, 864), (864, 1536), (64, 64), (16, 16), (1000, 16), (333, 517)]
)
def test_every_format_and_size_can_be_read(format_: str, size: tuple[int, int], plain: bool) -> None:
    data = draw(Drawing("a vase of flowers", 1, *size, format=format_, plain=plain))
    picture = Image.open(io.BytesIO(data))
    assert (picture.format or "").lower() == format_
    assert opened(data).size == size


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.integers(0, 2**32), st.integers(96, 300), st.integers(96, 300))
def test_any_prompt_can_be_drawn(prompt: str, seed: int, width: int, height: int) -> None:
    assert opened(draw(Drawing(prompt, seed, width, height))).size == (width, height)


def test_the_prompt_chooses_the_product() -> None:
    assert product_for("Two running SHOES, side view", 0) is product_for("a sneaker", 5)
    assert product_for("nothing known here", 3) is product_for("nothing known here", 3)
