"""Finds what is wrong with the routes that others name: as equals in `any`, or as spares in `fallback`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from daemon.settings.model import Route, Settings, did_you_mean
from daemon.settings.sources import Path_


def wrong_spares(
    settings: Settings, credentials: Mapping[str, Any], left_out: Collection[str]
) -> Iterator[tuple[Path_, str]]:
    """(path, sentence) for every name of a route that cannot serve. Routes that are `left_out` are wrong elsewhere."""
    for name, route in settings.routes.items():
        for field in ("any", "fallback"):
            at = ("routes", name, field)
            yield from ((at, sentence) for sentence in _wrong_names(settings, name, field, left_out))
        if not any(_wrong_names(settings, name, "any", left_out)):
            yield from (
                (("routes", name, "any"), sentence) for sentence in _unequal(settings, route, credentials)
            )
        if route.fallback and not route.any and not route.quotas:
            yield (
                ("routes", name, "fallback"),
                "needs a quota of its route: a key that is refused pauses the quotas, and so the spare can know; "
                "name one in `quotas`, such as {in_flight = 8}",
            )


def _wrong_names(
    settings: Settings, name: str, field: Literal["any", "fallback"], left_out: Collection[str]
) -> Iterator[str]:
    named = getattr(settings.routes[name], field)
    for each in named:
        other = settings.routes.get(each)
        if each == name:
            yield f'names its own route "{name}"; name another one'
        elif other is None and each not in left_out:
            others = [known for known in settings.routes if known != name]
            yield f'names a route "{each}" that is not configured{did_you_mean(each, others)}'
        elif other is not None and other.any:
            yield f'names "{each}", which has `any` itself; name the routes of that'
        elif field == "fallback" and each in settings.routes[name].any:
            yield f'names "{each}", which is in `any`, too; keep one of them'
        elif field == "fallback" and each != named[-1] and other is not None and not other.quotas:
            yield (
                f'names "{each}" before another spare, and it has no quota; a refused key pauses the quotas, '
                "so without one the next spare is never needed"
            )
        elif named.count(each) > 1:
            yield f'names "{each}" twice; keep one of them'
            return


def _unequal(settings: Settings, route: Route, credentials: Mapping[str, Any]) -> Iterator[str]:
    """Why the routes of `any` are not equal. Any of them may get an item, so all must make the same picture of it."""
    members = [(name, settings.routes[name]) for name in route.any if name in settings.routes]
    kinds = {name: _kind(member, credentials) for name, member in members}
    if len(set(kinds.values())) > 1:
        spelled = "; ".join(f"`{name}`: {', '.join(kind)}" for name, kind in kinds.items())
        yield f"names routes that make different pictures ({spelled}); equals have one provider, protocol and model"
    for name, member in members:
        if not member.quotas:
            yield f'names "{name}", which has no quota; the quotas decide which route takes an item'


def _kind(route: Route, credentials: Mapping[str, Any]) -> tuple[str, ...]:
    credential = credentials.get(str(route.credential))
    if credential is None:
        return "an unknown account", str(route.model)
    options = credential.provider_options()
    shown = (f"{name} {options[name]}" for name in sorted(options) if name != "region")
    return credential.provider, *shown, str(route.model)
