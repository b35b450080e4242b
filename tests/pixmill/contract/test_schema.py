"""The JSON Schema describes the models and every event."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from pydantic import ValidationError
from typer import Typer
from typer.testing import CliRunner

from daemon.cli.commands.config import schema_ as schema_command
from pixmill.contract import Event, Job
from pixmill.contract.event_data import EVENT_DATA
from pixmill.contract.event_types import EventType
from pixmill.contract.schema import SCHEMA_NAMES, schema


def test_every_field_of_a_job_is_described() -> None:
    document = schema("job")
    assert set(document["properties"]) == set(Job.model_fields)
    assert all(field.get("description") for field in document["properties"].values())
    assert document["required"] == ["prompt", "id"]


@pytest.mark.parametrize("name", ["job", "batch"])
def test_objects_are_closed_except_for_own_fields(name: str) -> None:
    document = schema(name)
    for model in (document, *document["$defs"].values()):
        assert model["additionalProperties"] is False
        assert model["patternProperties"] == {"^x_": {}}


def test_every_event_type_has_its_branch() -> None:
    document = schema("event")
    branches = {branch["properties"]["type"]["const"]: branch for branch in document["oneOf"]}
    assert set(branches) == set(EVENT_DATA) == set(get_args(EventType))
    for branch in branches.values():
        assert branch["properties"]["data"]["$ref"].removeprefix("#/$defs/") in document["$defs"]


@pytest.mark.parametrize("kind", [kind for kind in EVENT_DATA if kind.startswith("job.")])
def test_every_job_event_names_tenant_and_job(kind: str) -> None:
    document = schema("event")
    branch = next(branch for branch in document["oneOf"] if branch["properties"]["type"]["const"] == kind)
    model = document["$defs"][branch["properties"]["data"]["$ref"].removeprefix("#/$defs/")]
    assert {"tenant", "job", "item", "batch", "time"} <= set(model["required"])


def test_an_event_is_read_as_its_type() -> None:
    counts = {"total": 3, "queued": 2, "succeeded": 1}
    event = Event.model_validate(
        {"type": "batch.progress", "data": {"batch": "b1", "counts": counts, "progress": 0.3}}
    )
    assert event.parsed().model_dump()["counts"]["total"] == 3
    with pytest.raises(ValidationError):
        Event.model_validate({"type": "job.failed", "data": {}}).parsed()


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_the_command_prints_one_json_document(name: str) -> None:
    app = Typer()
    app.command()(schema_command)
    result = CliRunner().invoke(app, [name])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["$schema"].endswith("2020-12/schema")
