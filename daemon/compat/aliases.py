"""The names that older clients read from the environment; they fill in what no setting of ours says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from daemon.settings.sources import Path_, Source
from limiter.quota.presets import PRESETS

_SECRETS = {
    "zimage": {"MODELSCOPE_API_KEY": "api_key"},
    "hunyuan": {"HUNYUAN_SECRET_ID": "secret_id", "HUNYUAN_SECRET_KEY": "secret_key"},
}
_LIMITS = {"ZIMAGE_BATCH_DELAY": "zimage", "HUNYUAN_MAX_CONCURRENT": "hunyuan"}


def alias_source(configured: Mapping[str, Any], environ: Mapping[str, str]) -> Source:
    """What the older names add to the configured accounts of their provider.

    A credential without its secret gets the variable's name. The quotas of its routes get the limit; where
    there is none, a quota of the credential's name is made. Without an account of that provider nothing is.
    """
    source = Source({}, lambda at: _label(at))
    found: dict[Path_, str] = {}

    def add(path: Path_, value: Any, variable: str) -> None:
        table = source.values
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
        found[path] = f"environment {variable}"

    def _label(at: Path_) -> str:
        return next((label for path, label in found.items() if at[: len(path)] == path), "environment")

    for name, credential in _tables(configured, "credentials"):
        provider = credential.get("provider")
        for variable, secret in _SECRETS.get(str(provider), {}).items():
            if environ.get(variable) and not {f"{secret}_env", f"{secret}_file"} & credential.keys():
                add(("credentials", name, f"{secret}_env"), variable, variable)
        for variable, of_provider in _LIMITS.items():
            if of_provider == provider and (text := environ.get(variable)):
                _add_limit(configured, name, variable, text, add, source.problems)
    return source


def _add_limit(
    configured: Mapping[str, Any], credential: str, variable: str, text: str, add: Any, problems: list[str]
) -> None:
    try:
        limit = _pause(text) if variable == "ZIMAGE_BATCH_DELAY" else ("in_flight", _count(text))
    except ValueError as error:
        problems.append(f"environment {variable}: {error}.")
        return
    if limit is None:
        return
    unit, value = limit
    routes = [
        (name, route)
        for name, route in _tables(configured, "routes")
        if route.get("credential") == credential
    ]
    for quota in sorted({quota for _, route in routes for quota in _names(route)}) or [credential]:
        table = configured.get("quotas", {}).get(quota, {})
        if isinstance(table, Mapping) and unit not in table:
            add(("quotas", quota, unit), _beside_preset(table, unit, value), variable)
    for name, route in routes:
        if not _names(route):
            add(("routes", name, "quotas"), [credential], variable)


def _beside_preset(table: Mapping[str, Any], unit: str, value: Any) -> Any:
    """A pause holds together with the rates of a preset; a number of tasks takes the place of the preset's own."""
    preset = PRESETS.get(str(table.get("preset")))
    published = preset.limits.get(unit) if preset is not None and unit == "requests" else None
    if published is None:
        return value
    return [*(published if isinstance(published, list) else [published]), value]


def _pause(text: str) -> tuple[str, str] | None:
    """A pause of 2.0 s between calls is one request in any 2 s; 0 is no limit."""
    try:
        seconds = Fraction(text).limit_denominator(100)
    except (ValueError, ZeroDivisionError):
        raise ValueError("must be seconds, such as 2.0") from None
    if not 0 <= seconds <= 86_400:
        raise ValueError("must be 0 to 86400 seconds")
    return ("requests", f"{seconds.denominator}/{seconds.numerator}s") if seconds else None


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise ValueError("must be a whole number from 1 to 10000")
    return int(text)


def _names(route: Mapping[str, Any]) -> list[str]:
    quotas = route.get("quotas") or []
    return (
        quotas.split(",")
        if isinstance(quotas, str)
        else [quota for quota in quotas if isinstance(quota, str)]
    )


def _tables(configured: Mapping[str, Any], section: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tables = configured.get(section)
    if isinstance(tables, Mapping):
        yield from ((name, table) for name, table in tables.items() if isinstance(table, Mapping))
