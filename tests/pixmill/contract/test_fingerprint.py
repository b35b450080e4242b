"""Two fingerprints: one of the submission, and one of the picture."""

from __future__ import annotations

from typing import Any

import pytest

from pixmill.contract import Job, fingerprint_content, pixel_fingerprint
from tests.pixmill.contract.test_job import job

HASH = "a" * 64


def pixels(parsed: Job, *hashes: str, k: int = 0, model: str = "m") -> str:
    return pixel_fingerprint(parsed, "openai", model, hashes, k)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"n": 1, "priority": "normal", "tenant": "default", "output": {"thumbnail": True}}),
        ({"deadline": "2030-01-01T00:00:00Z"}, {"deadline": "2030-01-01T02:00:00+02:00"}),
        ({"metadata": {"a": "1", "b": "2"}}, {"metadata": {"b": "2", "a": "1"}}),
    ],
)
def test_the_same_content_has_one_fingerprint(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert fingerprint_content(job(**one)) == fingerprint_content(job(**other))


@pytest.mark.parametrize(
    "fields",
    [{"prompt": "y"}, {"seed": 0}, {"metadata": {"a": "1"}}, {"x_mine": 1}, {"id": "b"}, {"priority": "low"}],
)
def test_any_other_content_has_another_fingerprint(fields: dict[str, Any]) -> None:
    assert fingerprint_content(job()) != fingerprint_content(job(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "other", "tenant": "shop", "route": "r", "priority": "high", "metadata": {"a": "1"}, "x_a": 1},
        {"callback": {"url": "https://a.example"}, "max_attempts": 1, "cache": "use", "n": 1},
        {"not_before": "2030-01-01T00:00:00Z", "output": {"thumbnail": False}},
    ],
)
def test_fields_without_pixels_leave_the_pixel_fingerprint(fields: dict[str, Any]) -> None:
    assert pixels(job(seed=1)) == pixels(job(**{"seed": 1, **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "y"},
        {"negative_prompt": "y"},
        {"seed": 2},
        {"size": "1:1"},
        {"params": {"a": 1}},
        {"output": {"format": "webp"}},
        {"output": {"quality": 50}},
    ],
)
def test_fields_that_change_pixels_change_the_pixel_fingerprint(fields: dict[str, Any]) -> None:
    assert pixels(job(seed=1)) != pixels(job(**{"seed": 1, **fields}))


def test_provider_model_and_inputs_count() -> None:
    with_input = job(inputs=[{"object": "a"}])
    mask = job(inputs=[{"object": "a", "role": "mask"}])
    renamed = job(inputs=[{"object": "b"}])
    assert pixels(job(), model="m") != pixels(job(), model="n")
    assert pixels(with_input, HASH) != pixels(with_input, "b" * 64)
    assert pixels(with_input, HASH) != pixels(mask, HASH)
    assert pixels(with_input, HASH) == pixels(renamed, HASH)


def test_every_picture_of_a_job_is_a_picture_of_its_own() -> None:
    assert pixels(job(n=2), k=0) != pixels(job(n=2), k=1)
    assert pixels(job(seed=1, n=2), k=1) == pixels(job(seed=2), k=0)


def test_a_hash_must_be_given_for_every_input() -> None:
    with pytest.raises(ValueError, match="0 hashes were given for 1 inputs"):
        pixels(job(inputs=[{"object": "a"}]))
