"""Providers by name: the built-in ones, and those that other packages offer.

A package adds a provider with an entry point in the group `pixmill.providers` that names a factory taking
`base_url`, `secrets` and `options` by keyword. A built-in name cannot be taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from providers.base import Provider
from providers.shared.account import nearest_hint

ENTRY_POINT_GROUP = "pixmill.providers"

# Imported when used, so that a broken or slow one disturbs nobody else.
_BUILT_IN = {
    "hunyuan": "providers.hunyuan.provider:create",
    "openai": "providers.openai.provider:create",
    "openrouter": "providers.openrouter.provider:create",
    "zimage": "providers.modelscope.provider:create",
}

Factory = Callable[..., Provider]


def provider_names() -> tuple[str, ...]:
    """Every name that `create_provider` knows, sorted."""
    return tuple(sorted({*_BUILT_IN, *_offered()}))


def create_provider(
    name: str, *, base_url: str | None, secrets: Mapping[str, str], options: Mapping[str, str]
) -> Provider:
    """A provider for one account.

    `secrets` holds the credential's secret values by name (`api_key`, `secret_id`, ...); `options` everything
    else that the credential's configuration says. Raises ValueError with a sentence that names the problem.
    """
    return _factory(name)(base_url=base_url, secrets=secrets, options=options)


def _factory(name: str) -> Factory:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        factory: Factory = getattr(import_module(module), attribute)
        return factory
    offered = _offered()
    if name in offered:
        loaded: Factory = offered[name].load()
        return loaded
    hint = nearest_hint(name, provider_names())
    raise ValueError(f"There is no provider {name!r}; known are {', '.join(provider_names())}.{hint}")


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
