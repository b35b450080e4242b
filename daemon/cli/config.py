"""`pixmill config check | print`: is the configuration right, and where does each value come from?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel

from daemon.callbacks.signing import secret_bytes
from daemon.compat.aliases import alias_source
from daemon.settings import Credential, LoadedSettings, Settings, SettingsError, load_settings
from daemon.settings.values import Shown, masked_url
from providers.registry import create_provider, provider_names

USAGE_ERROR = 2

config_app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file; without it ./pixmill.toml, if there is one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@config_app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say whether the configuration is right, or everything that is wrong with it."""
    try:
        loaded = load_settings(config, environ=os.environ, offers=[alias_source])
    except SettingsError as error:
        _fail(error.problems, as_json)
    if problems := tuple(problems_of(loaded.settings, os.environ)):
        _fail(problems, as_json)
    notes = list(notes_of(loaded.settings, os.environ))
    if as_json:
        typer.echo(json.dumps({"ok": True, "notes": notes, "summary": summary(loaded)}))
        return
    for note in notes:
        typer.echo(f"note: {note}")
    typer.echo(f"OK: {summary(loaded)}")


@config_app.command("print")
def print_(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every effective value and where it comes from, with secrets masked."""
    try:
        loaded = load_settings(config, environ=os.environ, offers=[alias_source])
    except SettingsError as error:
        _fail(error.problems, as_json)
    rows = [(key, shown(value), loaded.source(key)) for key, value in values_of(loaded.settings)]
    if as_json:
        document = {key: {"value": value, "source": source} for key, value, source in rows}
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    texts = [
        (key, value if isinstance(value, str) else json.dumps(value), source) for key, value, source in rows
    ]
    widths = [max(len(row[column]) for row in texts) for column in (0, 1)]
    for key, value, source in texts:
        typer.echo(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}")


def problems_of(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """What only other parts can tell: quotas that do not parse, providers that do not exist, options that no
    provider knows."""
    try:
        settings.parsed_quotas()
    except SettingsError as error:
        yield from error.problems
    known = provider_names()
    for name, credential in settings.credentials.items():
        if credential.provider not in known:
            yield (
                f"`credentials.{name}.provider` is no provider that is installed: "
                f'"{credential.provider}"; known are {", ".join(known)}.'
            )
        else:
            yield from (f"credentials.{name}: {problem}" for problem in _refused(credential, environ))
    for name, webhook in settings.webhooks.items():
        with suppress(SettingsError):  # a note: the secrets need not be on this machine
            for text in (webhook.resolve(environ), webhook.resolve_old(environ)):
                yield from (f"webhooks.{name}: {problem}" for problem in _no_secret(text))


def _no_secret(text: str | None) -> Iterator[str]:
    try:
        if text is not None:
            secret_bytes(text)
    except SettingsError as error:
        yield from error.problems


def _refused(credential: Credential, environ: Mapping[str, str]) -> Iterator[str]:
    """What the provider itself has against a credential whose secrets are here; nothing is sent."""
    try:
        create_provider(
            credential.provider,
            base_url=credential.base_url,
            secrets=credential.resolve(environ),
            options=credential.provider_options(),
        )
    except SettingsError:
        return  # a note: the secrets need not be on this machine
    except ValueError as error:
        yield str(error)


def notes_of(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """What need not be wrong here, but would be where the daemon runs."""
    for name, credential in settings.credentials.items():
        try:
            credential.resolve(environ)
        except SettingsError as error:
            yield from (f"credentials.{name}: {problem}" for problem in error.problems)
    for name, webhook in settings.webhooks.items():
        try:
            webhook.resolve(environ)
            webhook.resolve_old(environ)
        except SettingsError as error:
            yield from (f"webhooks.{name}: {problem}" for problem in error.problems)
    if not settings.routes:
        yield "no route is configured; jobs name routes, and the default one is `default`."


def summary(loaded: LoadedSettings) -> str:
    """One line: which file, and what is in it."""
    settings = loaded.settings
    redis = settings.redis.url or "embedded Valkey"
    counts = ", ".join(
        f"{len(getattr(settings, name))} {name}" for name in ("routes", "credentials", "quotas")
    )
    return f"{loaded.file or 'no file'}; {counts}; Redis: {redis}; images: {settings.storage.url}"


def values_of(settings: Settings) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is set or has a default, section by section."""
    yield from _flat("", settings)


def shown(value: Any) -> Any:
    """A value as it may be printed, for JSON as well."""
    if isinstance(value, str):
        return masked_url(str(value)) if "://" in str(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: shown(inner) for name, inner in value.items()}
    return [shown(inner) for inner in value] if isinstance(value, list) else value


def _flat(prefix: str, table: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    fields = type(table).model_fields if isinstance(table, BaseModel) else {}
    for name, value in table if isinstance(table, BaseModel) else table.items():
        key = f"{prefix}{name}"
        forms = [
            form for form in (fields[name].metadata if name in fields else ()) if isinstance(form, Shown)
        ]
        # A third level is a value: a quota's limit such as {rate, burst} stands in one line.
        if isinstance(value, BaseModel) or (isinstance(value, dict) and depth < 2):
            yield from _flat(f"{key}.", value, depth + 1)
        elif value is not None or key == "redis.url":
            yield key, forms[0].text(value) if forms else value


def _fail(problems: tuple[str, ...], as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"ok": False, "problems": list(problems)}, ensure_ascii=False))
    else:
        for problem in problems:
            typer.echo(problem, err=True)
    raise typer.Exit(USAGE_ERROR)
