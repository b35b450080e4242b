"""Limits as a command line has them: `images=20/min`, and anything else as TOML would have it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from daemon.cli.exits import USAGE, CommandError


def limits_table(given: Sequence[str], option: str = "") -> dict[str, Any]:
    """The table that a configuration would hold; raises CommandError. `option` is what the errors begin with."""
    told = f"{option} " if option else ""
    table: dict[str, Any] = {}
    for one in given:
        field, sign, value = (part.strip() for part in one.partition("="))
        if not sign or not field or not value:
            raise CommandError(f"{told}{one} is no limit; write one such as images=20/min.", USAGE)
        if field in table:
            raise CommandError(
                f'{told}{field} is named twice; write {field}=["10/s", "120/min"] for both.', USAGE
            )
        table[field] = _value(value)
    return table


def _value(text: str) -> Any:
    """As TOML has it, but a plain rate needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
