"""`pixmill schema job|batch|event`: the JSON Schema of what travels."""

from __future__ import annotations

import json
from typing import Annotated, cast

import typer

from daemon.cli.choices import one_of
from daemon.contract import SCHEMA_NAMES, SchemaName, schema


def schema_command(
    name: Annotated[
        str, typer.Argument(help="Which one.", metavar="|".join(SCHEMA_NAMES), parser=one_of(*SCHEMA_NAMES))
    ],
) -> None:
    """Print the JSON Schema of a job, a batch or an event."""
    typer.echo(json.dumps(schema(cast("SchemaName", name)), indent=2, ensure_ascii=False))
