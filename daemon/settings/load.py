"""Puts the sources together, validates them, and reports all problems at once, each with its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from daemon.settings.contradictions import contradictions
from daemon.settings.model import SECRET_NAMES, Settings, SettingsError, did_you_mean
from daemon.settings.sources import (
    Path_,
    Source,
    config_file,
    environment_source,
    flag_source,
    nested,
    toml_source,
)

# Makes one more source from the values so far and the environment, for values that no other source gives.
Offer = Callable[[Mapping[str, Any], Mapping[str, str]], Source]


@dataclass(frozen=True)
class LoadedSettings:
    """The effective settings, and the place of each value by its dotted key (`default` is not listed)."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None = None

    def source(self, dotted: str) -> str:
        """The place of a value: `default`, `pixmill.toml:12`, `environment NAME` or `flag --name`."""
        while dotted:
            if dotted in self.sources:
                return self.sources[dotted]
            dotted = dotted.rpartition(".")[0]
        return "default"


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, object] = {},
    offers: Sequence[Offer] = (),
) -> LoadedSettings:
    """The configuration of file, environment and flags.

    Without `path`: $PIXMILL_CONFIG, or ./pixmill.toml if there is one. `overrides` are flags by dotted key
    (`{"redis.url": "redis://..."}`); None is a flag that was not given. `offers` fill in values that no source
    gives. Raises SettingsError, which has every problem.
    """
    file = config_file(path, environ)
    sources = [toml_source(file)] if file else []
    environment = environment_source(environ, sources[0].values if sources else {})
    sources += [environment, flag_source(overrides)]
    values: dict[str, Any] = {}
    labels: dict[Path_, str] = {}
    tables: dict[Path_, str] = {}
    for source in sources:
        _lay_over(values, labels, tables, source)
    for offer in offers:
        sources.append(offer(values, environ))
        _lay_over(values, labels, tables, sources[-1])
    problems = [problem for source in sources for problem in source.problems]
    settings, wrong = _validated(values)
    settings = settings.with_places({**tables, **labels})
    problems += [_sentence(detail, settings) for detail in wrong]
    left_out = {_part(detail) for detail in wrong}
    problems += [
        _problem(at, sentence, settings.place(*at))
        for at, sentence in contradictions(settings, nested({at: None for at in left_out if len(at) > 1}))
        if at[:2] not in left_out
    ]
    if problems:
        raise SettingsError([*problems, *_wrong_quotas(settings)], settings)
    return LoadedSettings(settings, {".".join(at): label for at, label in labels.items()}, file)


def _validated(values: Mapping[str, Any]) -> tuple[Settings, list[ErrorDetails]]:
    """The settings without their wrong parts, and what was wrong with those: all faults are reported at once."""
    left, wrong = dict(values), list[ErrorDetails]()
    while True:
        try:
            return Settings.model_validate(left), wrong
        except ValidationError as error:
            found = error.errors(include_url=False)
        wrong += found
        for section, *name in map(_part, found):
            table = left.get(section)
            if name and isinstance(table, dict):
                left[section] = {key: value for key, value in table.items() if key != name[0]}
            else:
                left.pop(section, None)


def _part(detail: ErrorDetails) -> Path_:
    """The path to leave out for a fault: a setting of a section, or a whole table such as `routes.NAME`."""
    return tuple(str(step) for step in detail["loc"][:2])


def _wrong_quotas(settings: Settings) -> Sequence[str]:
    try:
        settings.parsed_quotas()
    except SettingsError as error:
        return error.problems
    return ()


def _lay_over(
    values: dict[str, Any], labels: dict[Path_, str], tables: dict[Path_, str], source: Source
) -> None:
    """Put a source's values over those of weaker ones; `tables` keeps where each table first stood."""
    for at, value in _leaves(source.values, ()):
        table = values
        for depth, part in enumerate(at[:-1], start=1):
            tables.setdefault(at[:depth], source.label(at[:depth]))
            inner = table.get(part)
            table[part] = table = inner if isinstance(inner, dict) else {}
        table[at[-1]] = value
        for stale in [known for known in labels if known[: len(at)] == at]:
            del labels[stale]
        labels[at] = source.label(at)


def _leaves(values: Mapping[str, Any], at: Path_) -> Iterator[tuple[Path_, Any]]:
    for name, value in values.items():
        # The limits of one quota are one value each, also when they are tables.
        if isinstance(value, dict) and value and not (len(at) == 2 and at[0] == "quotas"):
            yield from _leaves(value, (*at, name))
        else:
            yield (*at, name), value


def _sentence(detail: ErrorDetails, settings: Settings) -> str:
    at = tuple(str(step) for step in detail["loc"] if step != "[key]")
    place = settings.place(*at)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _problem(at, _unknown(at), place)
    if kind == "missing":
        return _problem(at, "is missing", place)
    if kind == "string_pattern_mismatch":
        suffix = at[-1].rpartition("_")[2]
        return _problem(at, f"must be {_NAME_TEXTS.get(suffix, _NAME_TEXTS[''])}", place)
    # Values are never shown: a misplaced one may be a secret.
    message = detail["msg"].replace("Input should be", "must be").replace("String should", "must")
    return _problem(at, message, place)


def _unknown(at: Path_) -> str:
    if at[0] in ("credentials", "webhooks") and at[-1] in (*SECRET_NAMES, "secret", "old_secret"):
        return (
            f"would hold a secret itself; write `{at[-1]}_env` with the name of an environment variable, "
            f"or `{at[-1]}_file` with a path"
        )
    return "is not a known setting" + did_you_mean(at[-1], list(_fields(at[:-1])))


def _fields(at: Path_) -> Mapping[str, Any]:
    """The settings that a table may have."""
    if not at:
        return Settings.model_fields
    section = Settings.model_fields[at[0]].annotation
    # Tables of tables (`credentials.NAME`) are typed as dict[Name, Model].
    model = section if isinstance(section, type) and issubclass(section, BaseModel) else get_args(section)[1]
    return model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}


def _problem(at: Path_, sentence: str, place: str) -> str:
    """A sentence with its place; a missing value has the place of its table."""
    return f"{place}`{'.'.join(at)}` {sentence}{'' if sentence.endswith('?') else '.'}"


_NAME_TEXTS = {
    "env": "the name of an environment variable, not the secret itself",
    "prefix": "1 to 64 letters, digits, `.`, `_` or `-`, or such a name in braces, as in `{pixmill}`",
    "": "1 to 64 letters, digits, `.`, `_` or `-`, beginning with a letter or digit",
}
