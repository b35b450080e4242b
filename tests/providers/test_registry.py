"""Providers by name, built in and offered by other packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from providers import registry
from providers.base import Submitted
from providers.registry import create_provider, provider_names


def offered(**_arguments: Any) -> Any:
    return "a provider of another package"


@pytest.fixture
def other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("other", "tests.providers.test_registry:offered", registry.ENTRY_POINT_GROUP),
        EntryPoint("openai", "tests.providers.test_registry:offered", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


@pytest.mark.usefixtures("other_package")
def test_another_package_can_offer_a_provider_but_not_replace_a_built_in_one() -> None:
    assert provider_names() == tuple(sorted({*registry._BUILT_IN, "other"}))
    made: Any = create_provider("other", base_url=None, secrets={}, options={})
    assert made == "a provider of another package"
    with pytest.raises(ValueError, match="api_key"):
        create_provider("openai", base_url=None, secrets={}, options={})


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match="Did you mean 'openai'"):
        create_provider("opnai", base_url=None, secrets={}, options={})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"secrets": {}}, "api_key"),
        ({"secrets": {"api_key": "two\nlines"}}, "one line"),
        ({"options": {"sede": "true"}}, "Did you mean 'seed'"),
        ({"base_url": "ftp://x/v1"}, "http"),
        ({"base_url": "https://u:p@x/v1"}, "without user"),
    ],
)
def test_a_bad_credential_is_refused_with_a_sentence(arguments: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"base_url": None, "secrets": {"api_key": "k"}, "options": {}} | arguments
    with pytest.raises(ValueError, match=says):
        create_provider("openai", **given)


def test_a_receipt_survives_json() -> None:
    receipt = Submitted("t1", poll_url="https://x/t1")
    assert Submitted.from_dict(receipt.to_dict() | {"newer_field": 1}) == receipt
