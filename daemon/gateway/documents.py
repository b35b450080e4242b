"""What the OpenAPI document says about requests and refusals: bodies from the contract's models, with an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from daemon.contract import Batch, Job

_PROBLEM: Mapping[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence for people."},
        "code": {"type": "string", "description": "Stable, for programs."},
        "field": {"type": "string"},
        "retry_after": {"type": "integer", "description": "Seconds."},
    },
}

# All refusals look alike, so one entry describes them.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "A refusal; nothing is stored.",
        "content": {"application/problem+json": {"schema": _PROBLEM}},
    },
    "5XX": {
        "description": "Redis, or the store of pictures, is away.",
        "content": {"application/problem+json": {"schema": _PROBLEM}},
    },
}


def body_of(
    model: type[BaseModel],
    example: Mapping[str, Any],
    *,
    optional: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The JSON body of an endpoint: the model, of which `optional` fields may be left out and `without` must be."""
    schema = model.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    schema["required"] = [name for name in schema.get("required", ()) if name not in optional]
    for name in without:
        del schema["properties"][name]
    content = {"application/json": {"schema": schema, "example": dict(example)}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema without references, whose targets an OpenAPI document keeps elsewhere. No model contains itself."""
    if isinstance(node, list):
        return [_inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(target := node.get("$ref"), str):
        rest = {name: value for name, value in node.items() if name != "$ref"}
        return {**_inlined(definitions[target.rpartition("/")[2]], definitions), **rest}
    return {name: _inlined(value, definitions) for name, value in node.items()}


JOB_BODY = body_of(
    Job,
    {"prompt": "white background product photo of a kettle", "size": "1024x1024", "n": 1},
    optional=("id",),
)

BATCH_BODY = body_of(
    Batch,
    {
        "defaults": {"prompt": "white background product photo", "size": "1024x1024"},
        "items": [{"id": "sku-1"}, {"id": "sku-2", "prompt": "a red kettle"}],
    },
    optional=("id",),
    without=("part", "parts"),
)
# The two other forms of a batch.
BATCH_BODY["requestBody"]["content"] |= {
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "The batch without its items, then one item a line."},
        "example": '{"defaults": {"size": "1024x1024"}}\n{"id": "sku-1", "prompt": "a red kettle"}\n',
    },
    "text/csv": {
        "schema": {"type": "string", "description": "A header of job fields, then one item a row."},
        "example": "id,prompt\nsku-1,a red kettle\n",
    },
}


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": f"For a CSV: {description}",
        "schema": schema or {"type": "string"},
    }


BATCH_BODY["parameters"] = [
    _parameter("id", "the batch's id."),
    _parameter("tenant", "the batch's tenant."),
    _parameter("route", "for items that name none."),
    _parameter("size", "for items that give none."),
    _parameter("priority", "for items that give none.", enum=["high", "normal", "low"]),
    _parameter("max_in_flight", "at most so many items at a time.", type="integer", minimum=1, maximum=100),
    _parameter("prompt_template", "prompts from columns, such as `{title}, white background`."),
    _parameter("id_column", "the column with the items' ids."),
    _parameter("ignore", "columns that are no job fields.", type="array", items={"type": "string"}),
    _parameter("skip_empty", "leave out rows that have nothing to make a prompt from.", type="boolean"),
]
DRY_RUN: dict[int | str, dict[str, Any]] = {
    200: {"description": "A dry run: the pictures, the time they take at least, and what is refused."}
}
