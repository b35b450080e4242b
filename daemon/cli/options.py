"""Options and arguments that several commands share, and how their values are read."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.errors import USAGE, CommandError
from daemon.settings import masked_url, parse_duration

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file; without it ./pixmill.toml, if there is one.")
]
RedisOption = Annotated[
    str | None, typer.Option("--redis-url", help="The Redis to use, such as redis://localhost:6379/0.")
]
PrefixOption = Annotated[str | None, typer.Option("--prefix", help="First part of every key (pixmill).")]
TenantOption = Annotated[
    str | None, typer.Option("--tenant", help="The tenant that owns the work (default).")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")
]
Ident = Annotated[str, typer.Argument(metavar="ID", help="A batch, a job, or BATCH/ITEM.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Shown with the pause.")]
ForOption = Annotated[
    str | None, typer.Option("--for", help="Resume by itself after this time, such as 10min.")
]


def spelled(
    config: Path | None = None,
    redis_url: str | None = None,
    prefix: str | None = None,
    tenant: str | None = None,
) -> str:
    """The given common options as another command needs them, with a blank before them; a password is left out."""
    # A pasted hint that lacks the password fails; one that has it would put it on the screen and into its records.
    shown_url = redis_url if redis_url is None or masked_url(redis_url) == redis_url else "URL"
    given = {"--config": config, "--redis-url": shown_url, "--prefix": prefix, "--tenant": tenant}
    return "".join(f" {option} {shlex.quote(str(value))}" for option, value in given.items() if value)


def one_of(*words: str) -> dict[str, Any]:
    """Typer's settings for one of a few words; its own choices refuse others with "Value error, ..."."""

    def word(text: str) -> str:
        if text not in words:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(words)}.")
        return text

    return {"metavar": "|".join(words), "parser": word}


def duration_s(option: str, text: str | None) -> float | None:
    """Seconds, more than 0, from a text such as "10min"; raises CommandError, which names the option."""
    if text is None:
        return None
    with suppress(ValueError):
        if (seconds := parse_duration(text)) > 0:
            return seconds
    raise CommandError(f"{option} {text} is not a time; write one such as 30s, 10min, 12h or 7d.", USAGE)


def limits_table(given: Sequence[str], option: str = "") -> dict[str, Any]:
    """The table that a configuration would hold for `images=20/min ...`; raises CommandError."""
    named = f"{option} " if option else ""
    table: dict[str, Any] = {}
    for one in given:
        field, sign, value = (part.strip() for part in one.partition("="))
        if not sign or not field or not value:
            raise CommandError(f"{named}{one} is not a limit; write one such as images=20/min.", USAGE)
        if field in table:
            raise CommandError(
                f'{named}{field} is named twice; write {field}=["10/s", "120/min"] for both.', USAGE
            )
        try:
            table[field] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            table[field] = value  # a plain rate needs no quotes
    return table
