"""Finds routes of one account that do not limit it together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from daemon.settings.model import SECRET_NAMES, Credential, Settings, SettingsError


def unshared_accounts(settings: Settings, environ: Mapping[str, str] = {}) -> Iterator[str]:
    """A sentence for each account whose routes spend quotas without a common one.

    Such quotas do not know of each other's calls, so together they may exceed a limit of the account. That is right
    only where the provider limits each model apart, which a configuration does not show: hence a warning. Credentials
    whose secrets in `environ` are equal are one account; where a secret is not here, its place stands for it.
    """
    accounts: dict[tuple[str, ...], list[str]] = {}
    for name, route in settings.calling_routes.items():
        accounts.setdefault(_account(settings.credentials[str(route.credential)], environ), []).append(name)
    for (provider, *_), routes in accounts.items():
        used = [settings.credentials[str(settings.routes[name].credential)] for name in routes]
        places = dict.fromkeys(place for each in used for place in _places(each))
        quotas = [set(settings.routes[name].quotas) for name in routes]
        if any(quotas) and not set.intersection(*quotas):
            spent = "; ".join(
                f"`{name}`: {', '.join(settings.routes[name].quotas) or 'no quota'}" for name in routes
            )
            yield (
                f"the routes of the account in {' and '.join(places) or provider} "
                f"have no quota in common ({spent}). "
                "If the provider limits the account and not each model apart, name one quota in all of them, "
                "beside others of their own."
            )


def _account(credential: Credential, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The account by its provider, its address, its region, and its secrets or their places. It is never shown."""
    try:
        secrets = tuple(credential.resolve(environ).values())
    except SettingsError:
        secrets = _places(credential)
    return credential.provider, credential.base_url or "", credential.region or "", *secrets


def _places(credential: Credential) -> tuple[str, ...]:
    """The variables and files of its secrets, never their values."""
    named = (
        getattr(credential, f"{name}_env") or getattr(credential, f"{name}_file") for name in SECRET_NAMES
    )
    return tuple(str(place) for place in named if place)
