"""Quotas that probably do not fit their account are named, with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.settings import Settings
from daemon.settings.quota_doubts import quota_doubts


def doubts(quota: dict[str, Any], **credential: str) -> list[str]:
    """Of one route with one quota."""
    settings = Settings.model_validate(
        {
            "credentials": {"main": {"provider": "openai", **credential}},
            "quotas": {"main": quota},
            "routes": {"default": {"credential": "main", "model": "m", "quotas": ["main"]}},
        }
    )
    return list(quota_doubts(settings, {}))


def test_a_burst_beside_the_full_rate_breaks_a_window() -> None:
    (sentence,) = doubts({"images": {"rate": "20/min", "burst": 20}})
    assert "quotas.main.images: a burst of 20 comes on top of 20/min" in sentence
    assert "up to 40 can leave within one min" in sentence
    assert 'write `images = "20/min"`' in sentence


def test_a_burst_that_no_window_beside_it_grants_is_named() -> None:
    (sentence,) = doubts({"requests": ["10/s", {"rate": "60/min", "burst": 30}]})
    assert "the burst of 30 never fits the window of 10/s beside it: write `burst = 10` or less" in sentence


@pytest.mark.parametrize(
    "quota",
    [
        {"images": "20/min"},
        {"images": {"rate": "50/min", "burst": 5}},
        {"images": {"rate": "1/s", "burst": 1}},
        {"images": "20/min", "requests": {"rate": "50/min", "burst": 5}},
        {"requests": ["30/s", {"rate": "60/min", "burst": 30}]},
    ],
)
def test_usual_rates_raise_no_doubt(quota: dict[str, Any]) -> None:
    assert doubts(quota) == []


@pytest.mark.parametrize(
    ("quota", "has"),
    [
        ({"in_flight": 4, "requests": "20/s"}, "allow 4 calls in flight"),
        ({"requests": "20/s"}, "limit no calls in flight"),
    ],
)
def test_more_in_flight_than_a_provider_has_by_default_is_named(quota: dict[str, Any], has: str) -> None:
    (sentence,) = doubts(quota, provider="hunyuan")
    assert f"routes.default: its quotas {has}, and an account of hunyuan has 1" in sentence
    assert '`preset = "tencent-hunyuan"`' in sentence


def test_a_preset_another_wire_and_a_simulator_raise_no_doubt() -> None:
    assert doubts({"preset": "tencent-hunyuan"}, provider="hunyuan") == []
    assert doubts({"requests": "20/s"}, provider="hunyuan", wire="tokenhub_sync") == []
    assert doubts({"requests": "20/s"}, provider="hunyuan", base_url="http://127.0.0.1:9000") == []
