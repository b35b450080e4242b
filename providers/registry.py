"""Providers by name: the built-in ones, and those that other packages offer.

A package adds a provider with an entry point in the group `pixmill.providers`: a factory that takes `base_url`,
`secrets` and `options` by keyword. It cannot take over a built-in name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from providers.base import Provider
from providers.shared.account import nearest_hint

ENTRY_POINT_GROUP = "pixmill.providers"

# Imported when used, so that a broken or slow one disturbs no other.
_BUILT_IN = {
    "hunyuan": "providers.hunyuan.provider:create",
    "openai": "providers.openai.provider:create",
    "openrouter": "providers.openrouter.provider:create",
    "zimage": "providers.modelscope.provider:create",
}


def provider_names() -> tuple[str, ...]:
    """Every name that `create_provider` knows, sorted."""
    return tuple(sorted(_factories()))


def create_provider(
    name: str, *, base_url: str | None, secrets: Mapping[str, str], options: Mapping[str, str]
) -> Provider:
    """A provider for one account.

    `secrets` holds the credential's secret values by name (`api_key`, `secret_id`, ...), and `options` the rest of the
    credential's configuration. Raises ValueError with a sentence that names the problem.
    """
    factories = _factories()
    if name not in factories:
        hint = nearest_hint(name, factories)
        raise ValueError(f"There is no provider {name!r}; known are {', '.join(sorted(factories))}.{hint}")
    create: Callable[..., Provider] = factories[name].load()
    return create(base_url=base_url, secrets=secrets, options=options)


def _factories() -> dict[str, EntryPoint]:
    offered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    built_in = {name: EntryPoint(name, path, ENTRY_POINT_GROUP) for name, path in _BUILT_IN.items()}
    return offered | built_in
