"""`pixmill schema job|batch|event`: the JSON Schema of what travels."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from daemon.contract import schema


class What(StrEnum):
    """What has a schema."""

    JOB = "job"
    BATCH = "batch"
    EVENT = "event"


def schema_command(
    name: Annotated[What, typer.Argument(help="Which one.", show_choices=True)],
) -> None:
    """Print the JSON Schema of a job, a batch or an event."""
    typer.echo(json.dumps(schema(name.value), indent=2, ensure_ascii=False))
