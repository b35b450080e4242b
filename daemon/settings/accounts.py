"""Finds routes of one account that do not limit it together."""

from __future__ import annotations

from collections.abc import Iterator

from daemon.settings.model import SECRET_NAMES, Credential, Settings


def unshared_accounts(settings: Settings) -> Iterator[str]:
    """A sentence for each account whose routes spend quotas without a common one.

    Such quotas do not know of each other's calls, so together they may exceed a limit of the account. That is right
    only where the provider limits each model apart, which a configuration does not show: hence a warning.
    """
    accounts: dict[tuple[str, ...], list[str]] = {}
    for name, route in settings.calling_routes.items():
        accounts.setdefault(_account(settings.credentials[str(route.credential)]), []).append(name)
    for (provider, _, *places), routes in accounts.items():
        quotas = [set(settings.routes[name].quotas) for name in routes]
        if any(quotas) and not set.intersection(*quotas):
            spent = "; ".join(
                f"`{name}`: {', '.join(settings.routes[name].quotas) or 'no quota'}" for name in routes
            )
            yield (
                f"the routes of the account in {' and '.join(filter(None, places)) or provider} "
                f"have no quota in common ({spent}). "
                "If the provider limits the account and not each model apart, name one quota in all of them, "
                "beside others of their own."
            )


def _account(credential: Credential) -> tuple[str, ...]:
    """The account by its provider, its address, and the places of its secrets (never their values)."""
    places = (
        getattr(credential, f"{name}_env") or getattr(credential, f"{name}_file") or ""
        for name in SECRET_NAMES
    )
    return credential.provider, str(credential.base_url or ""), *map(str, places)
