"""`pixmill config check | print`, `schema` and `openapi`: check or show the configuration; print schemas."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel

from daemon.callbacks.signing import secret_bytes
from daemon.cli.errors import USAGE
from daemon.cli.options import ConfigOption, JsonOption, one_of
from daemon.cli.output import Printer
from daemon.compat.aliases import alias_source
from daemon.doctor.checks import provider_of
from daemon.gateway.callers.keys_file import open_to_others, read_keys
from daemon.settings import LoadedSettings, Settings, SettingsError, load_settings
from daemon.settings.quota_doubts import quota_doubts
from daemon.settings.values import Shown, masked_url
from pixmill.contract.schema import SCHEMA_NAMES, schema
from providers.http.proxies import environment_problems
from providers.registry import provider_names

config = typer.Typer(help="Check and show the configuration.", no_args_is_help=True)


@config.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Report whether the configuration is right, or everything that is wrong with it."""
    loaded = _loaded(config, as_json)
    if problems := tuple(problems_of(loaded.settings, os.environ)):
        _fail(problems, as_json)
    notes, line = list(notes_of(loaded.settings, os.environ)), summary(loaded)
    document = {"ok": True, "notes": notes, "summary": line}
    Printer(as_json).answer(document, *(f"note: {note}" for note in notes), f"OK: {line}")


@config.command("print")
def print_(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every effective value and where it comes from, with secrets masked."""
    loaded = _loaded(config, as_json)
    rows = [(key, shown(value), loaded.source(key)) for key, value in values_of(loaded.settings)]
    Printer(as_json).table(
        {key: {"value": value, "source": source} for key, value, source in rows},
        [
            (key, value if isinstance(value, str) else json.dumps(value), source)
            for key, value, source in rows
        ],
    )


def schema_(name: Annotated[str, typer.Argument(help="Which one.", **one_of(*SCHEMA_NAMES))]) -> None:
    """Print the JSON Schema of a job, a batch or an event."""
    typer.echo(json.dumps(schema(name), indent=2, ensure_ascii=False))


def openapi() -> None:
    """Print the OpenAPI document of the gateway.

    Example:  pixmill openapi > pixmill.json
    """
    from daemon.gateway.app import described

    typer.echo(json.dumps(described(), indent=2, ensure_ascii=False))


def problems_of(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """The problems that only other parts can find: wrong quotas, unknown providers, refused options, and secrets
    of a wrong form. Nothing is sent."""
    yield from _problems("", settings.parsed_quotas)
    unusable = tuple(environment_problems(environ))
    yield from unusable
    keys = settings.gateway.keys_file
    if keys is not None and keys.exists():
        yield from _problems(settings.place("gateway", "keys_file"), partial(read_keys, keys))
    known = provider_names()
    for name, credential in settings.credentials.items():
        if credential.provider not in known:
            yield (
                settings.place("credentials", name, "provider")
                + f"`credentials.{name}.provider` is not an installed provider: "
                f'"{credential.provider}"; known are {", ".join(known)}.'
            )
            continue
        if unusable:
            continue
        with suppress(SettingsError):  # a missing secret is a note: it need not be on this machine
            try:
                provider_of(credential, environ)
            except ValueError as error:
                yield f"{settings.place('credentials', name)}credentials.{name}: {error}"
    for name, webhook in settings.webhooks.items():
        place = settings.place("webhooks", name)
        with suppress(SettingsError):
            for text in (webhook.resolve(environ), webhook.resolve_old(environ)):
                if text is not None:
                    yield from _problems(f"{place}webhooks.{name}: ", partial(secret_bytes, text))


def notes_of(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Notes about problems that count only on the machines where the daemon runs, or only for some providers."""
    for name, credential in settings.credentials.items():
        yield from _problems(f"credentials.{name}: ", partial(credential.resolve, environ))
    for name, webhook in settings.webhooks.items():
        yield from _problems(f"webhooks.{name}: ", partial(webhook.resolve, environ))
        yield from _problems(f"webhooks.{name}: ", partial(webhook.resolve_old, environ))
    yield from _notes_of_gateway(settings)
    if not settings.routes:
        yield "no route is configured; jobs name routes, and the default one is `default`."
    yield from quota_doubts(settings, environ)


def _notes_of_gateway(settings: Settings) -> Iterator[str]:
    gateway = settings.gateway
    for name in ("slide_route", "studio_route"):
        if name in gateway.model_fields_set and (route := getattr(gateway, name)) not in settings.routes:
            yield f'gateway.{name}: there is no route "{route}", so every job for it would be refused.'
    if gateway.keys_file is None:
        return
    if not gateway.keys_file.exists():
        yield from _problems("", partial(read_keys, gateway.keys_file))
    elif (exposed := open_to_others(gateway.keys_file)) is not None:
        yield exposed


def summary(loaded: LoadedSettings) -> str:
    """One line with the file and its contents."""
    settings = loaded.settings
    redis = settings.redis.url or "embedded Valkey"
    counts = ", ".join(
        f"{len(getattr(settings, name))} {name}" for name in ("routes", "credentials", "quotas")
    )
    return f"{loaded.file or 'no file'}; {counts}; Redis: {redis}; images: {settings.storage.url}"


def values_of(table: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting that has a value, section by section."""
    fields = type(table).model_fields if isinstance(table, BaseModel) else {}
    for name, value in table if isinstance(table, BaseModel) else table.items():
        key = f"{prefix}{name}"
        metadata = fields[name].metadata if name in fields else ()
        # A third level is a value: a quota's limit such as {rate, burst} stands in one line.
        if isinstance(value, BaseModel) or (isinstance(value, dict) and depth < 2):
            yield from values_of(value, f"{key}.", depth + 1)
        elif value is not None or key == "redis.url":
            form = next((form for form in metadata if isinstance(form, Shown)), None)
            yield key, form.text(value) if form is not None else value


def shown(value: Any) -> Any:
    """A value as it may be printed, for JSON as well."""
    if isinstance(value, str):
        return masked_url(str(value)) if "://" in str(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: shown(inner) for name, inner in value.items()}
    return [shown(inner) for inner in value] if isinstance(value, list) else value


def _problems(place: str, call: Callable[[], object]) -> list[str]:
    try:
        call()
    except SettingsError as error:
        return [f"{place}{problem}" for problem in error.problems]
    return []


def _loaded(file: Path | None, as_json: bool) -> LoadedSettings:
    try:
        return load_settings(file, environ=os.environ, offers=[alias_source])
    except SettingsError as error:
        others = problems_of(error.rest, os.environ) if error.rest is not None else ()
        _fail(tuple(dict.fromkeys((*error.problems, *others))), as_json)


def _fail(problems: tuple[str, ...], as_json: bool) -> NoReturn:
    printer = Printer(as_json)
    if as_json:
        printer.document({"ok": False, "problems": list(problems)})
    else:
        printer.note("\n".join(problems))
    raise typer.Exit(USAGE)
