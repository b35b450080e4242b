"""The names that older clients read from the environment; each fills in a value that no setting gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from daemon.settings.sources import Path_, Source, nested
from limiter.quota.presets import PRESETS

Limit = tuple[str, Any]  # the unit and its value, as in `[quotas.NAME]`


def alias_source(configured: Mapping[str, Any], environ: Mapping[str, str]) -> Source:
    """The settings that the older names add to the configured accounts of their provider.

    A credential without its secret gets the variable's name. The quotas of its routes get the limit; if
    they have none, a quota with the credential's name is made. Without an account of that provider nothing is added.
    """
    found: dict[Path_, tuple[Any, str]] = {}  # the value and its variable
    problems: list[str] = []
    for name, credential in _tables(configured, "credentials"):
        provider = str(credential.get("provider"))
        for variable, secret in _SECRETS.get(provider, {}).items():
            if environ.get(variable) and not {f"{secret}_env", f"{secret}_file"} & credential.keys():
                found["credentials", name, f"{secret}_env"] = variable, variable
        variable, parse = _LIMITS.get(provider, ("", _pause))
        if text := environ.get(variable):
            try:
                limit = parse(text)
            except ValueError as error:
                problems.append(f"environment {variable}: {error}.")
                continue
            if limit is not None:
                found |= {path: (value, variable) for path, value in _added(configured, name, *limit)}

    def label(at: Path_) -> str:
        names = (variable for path, (_, variable) in found.items() if at[: len(path)] == path)
        return f"environment {next(names, '')}".rstrip()

    return Source(nested({path: value for path, (value, _) in found.items()}), label, problems)


def _added(
    configured: Mapping[str, Any], credential: str, unit: str, value: Any
) -> Iterator[tuple[Path_, Any]]:
    """A limit for each quota of the credential's routes, or a quota of its own for routes without any."""
    routes = {
        name: _names(route)
        for name, route in _tables(configured, "routes")
        if route.get("credential") == credential
    }
    for quota in sorted({quota for quotas in routes.values() for quota in quotas}) or [credential]:
        table = configured.get("quotas", {}).get(quota, {})
        if isinstance(table, Mapping) and unit not in table:
            yield ("quotas", quota, unit), _beside_preset(table, unit, value)
    for name, quotas in routes.items():
        if not quotas:
            yield ("routes", name, "quotas"), [credential]


def _beside_preset(table: Mapping[str, Any], unit: str, value: Any) -> Any:
    """A pause holds together with the rates of a preset; a number of tasks takes the place of the preset's own."""
    preset = PRESETS.get(str(table.get("preset")))
    published = preset.limits.get(unit) if preset is not None and unit == "requests" else None
    if published is None:
        return value
    return [*(published if isinstance(published, list) else [published]), value]


def _pause(text: str) -> Limit | None:
    """A pause of 2.0 s between calls is one request in any 2 s; 0 is no limit."""
    try:
        seconds = Fraction(text).limit_denominator(100)
    except (ValueError, ZeroDivisionError):
        raise ValueError("must be seconds, such as 2.0") from None
    if not 0 <= seconds <= 86_400:
        raise ValueError("must be 0 to 86400 seconds")
    return ("requests", f"{seconds.denominator}/{seconds.numerator}s") if seconds else None


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
