"""The names that older clients read from the environment; each fills in a value that no setting gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from daemon.settings.sources import Path_, Source, nested
from limiter.quota.presets import PRESETS

Limit = tuple[str, Any]  # the unit and its value, as in `[quotas.NAME]`


def alias_source(configured: Mapping[str, Any], environ: Mapping[str, str]) -> Source:
    """The settings that the older names add to the configured accounts of their provider.

    A credential without its secret gets the variable's name. An older limit holds for the whole account, so the quotas
    that all of its routes share get it; routes without quotas get these quotas, or, if no route has one, a quota with
    the credential's name. Routes that share no quota are a problem: their quotas would not know of each other's
    calls. Without an account of that provider nothing is added.
    """
    found: dict[Path_, tuple[Any, str]] = {}  # the value and its variable
    problems: list[str] = []
    for provider, variables in _SECRETS.items():
        credentials = {
            name: table
            for name, table in _tables(configured, "credentials")
            if table.get("provider") == provider
        }
        for name, credential in credentials.items():
            for variable, secret in variables.items():
                if environ.get(variable) and not {f"{secret}_env", f"{secret}_file"} & credential.keys():
                    found["credentials", name, f"{secret}_env"] = variable, variable
        limiting, parse = _LIMITS[provider]
        if not credentials or not environ.get(limiting):
            continue
        try:
            if limit := parse(environ[limiting]):
                added = _limited(configured, _accounts(credentials, variables), *limit)
                found |= {path: (value, limiting) for path, value in added}
        except ValueError as error:
            problems.append(f"environment {limiting}: {error}.")

    def label(at: Path_) -> str:
        names = (variable for path, (_, variable) in found.items() if at[: len(path)] == path)
        return f"environment {next(names, '')}".rstrip()

    return Source(nested({path: value for path, (value, _) in found.items()}), label, problems)


def _limited(
    configured: Mapping[str, Any], accounts: Mapping[tuple[str, ...], list[str]], unit: str, value: Any
) -> Iterator[tuple[Path_, Any]]:
    """The limit for the shared quotas of each account, and these quotas for its routes without any."""
    for places, credentials in accounts.items():
        routes = {
            name: _names(route)
            for name, route in _tables(configured, "routes")
            if route.get("credential") in credentials
        }
        # A place that is no name may be a secret at the wrong place.
        account = " and ".join(filter(str.isidentifier, places)) or f"credential {credentials[0]}"
        shared = _shared(routes, account) or credentials[:1]
        for quota in shared:
            table = configured.get("quotas", {}).get(quota, {})
            if isinstance(table, Mapping) and unit not in table:
                yield ("quotas", quota, unit), _beside_preset(table, unit, value)
        for name, quotas in routes.items():
            if not quotas:
                yield ("routes", name, "quotas"), shared


def _accounts(
    credentials: Mapping[str, Mapping[str, Any]], variables: Mapping[str, str]
) -> dict[tuple[str, ...], list[str]]:
    """The credentials of each account, by the places of its secrets."""
    accounts: dict[tuple[str, ...], list[str]] = {}
    for name, credential in credentials.items():
        places = (
            str(credential.get(f"{secret}_env") or credential.get(f"{secret}_file") or variable)
            for variable, secret in variables.items()
        )
        accounts.setdefault(tuple(places), []).append(name)
    return accounts


def _shared(routes: Mapping[str, list[str]], account: str) -> list[str]:
    """The quotas that all routes with quotas name; raises ValueError if they have none in common."""
    limited = {name: set(quotas) for name, quotas in routes.items() if quotas}
    shared = set.intersection(*limited.values()) if limited else set()
    if limited and not shared:
        raise ValueError(
            f"it limits all calls of one account, but the routes {_listed(limited)} of the account in {account} "
            "share no quota; name one quota in all of them, beside others of their own"
        )
    return sorted(shared)


def _listed(names: Mapping[str, Any]) -> str:
    return " and ".join(f"`{name}`" for name in sorted(names))


def _beside_preset(table: Mapping[str, Any], unit: str, value: Any) -> Any:
    """A pause holds together with the rates of a preset; a number of tasks takes the place of the preset's own."""
    preset = PRESETS.get(str(table.get("preset")))
    published = preset.limits.get(unit) if preset is not None and unit == "requests" else None
    if published is None:
        return value
    return [*(published if isinstance(published, list) else [published]), value]


def _pause(text: str) -> Limit | None:
    """A pause of 0.5 s between calls is one request in any 0.5 s; 0 is no limit."""
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        raise ValueError("must be seconds, such as 2.0") from None
    if not seconds.is_finite() or not (seconds == 0 or Decimal("0.001") <= seconds <= 86_400):
        raise ValueError("must be 0 for no limit, or 0.001 to 86400 seconds")
    return ("requests", {"every": f"{round(seconds, 6).normalize():f}s"}) if seconds else None


def _count(text: str) -> Limit | None:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise ValueError("must be a whole number from 1 to 10000")
    return "in_flight", int(text)


def _names(route: Mapping[str, Any]) -> list[str]:
    quotas = route.get("quotas") or []
    return quotas.split(",") if isinstance(quotas, str) else [one for one in quotas if isinstance(one, str)]


def _tables(configured: Mapping[str, Any], section: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tables = configured.get(section)
    if isinstance(tables, Mapping):
        yield from ((name, table) for name, table in tables.items() if isinstance(table, Mapping))


_SECRETS = {
    "zimage": {"MODELSCOPE_API_KEY": "api_key"},
    "hunyuan": {"HUNYUAN_SECRET_ID": "secret_id", "HUNYUAN_SECRET_KEY": "secret_key"},
}
_LIMITS: dict[str, tuple[str, Callable[[str], Limit | None]]] = {
    "zimage": ("ZIMAGE_BATCH_DELAY", _pause),
    "hunyuan": ("HUNYUAN_MAX_CONCURRENT", _count),
}
