"""JSON Schemas (2020-12) of jobs, batches and events, made from the models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pixmill.contract.batches import Batch
from pixmill.contract.event_data import EVENT_DATA
from pixmill.contract.jobs import Job

SCHEMA_NAMES = ("job", "batch", "event")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(name: str) -> dict[str, Any]:
    """The schema of a job, a batch or an event; raises KeyError for another name."""
    if name == "event":
        return _event_schema()
    models: dict[str, type[BaseModel]] = {"job": Job, "batch": Batch}
    return {"$schema": _DIALECT, **models[name].model_json_schema()}


def _event_schema() -> dict[str, Any]:
    """One branch a type: `type` is a constant, and `data` has that type's fields."""
    models = sorted(set(EVENT_DATA.values()), key=lambda model: model.__name__)
    refs, definitions = models_json_schema([(model, "serialization") for model in models])
    branches = [
        {
            "properties": {"type": {"const": kind}, "data": refs[(model, "serialization")]},
            "required": ["type", "data"],
        }
        for kind, model in EVENT_DATA.items()
    ]
    return {
        "$schema": _DIALECT,
        "title": "Event",
        "description": "One entry of pixmill:events. Fields may be added: ignore those that you do not know.",
        "type": "object",
        "oneOf": branches,
        "$defs": definitions["$defs"],
    }
