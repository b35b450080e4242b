"""Makes the OpenAPI document of an app: its addresses, with what the table of operations says about each."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from daemon.gateway.answering.problems import MEDIA_TYPE
from daemon.gateway.callers.keyring import COOKIE
from daemon.gateway.document.bodies import JSON, ref
from daemon.gateway.document.codes import CODES, joined
from daemon.gateway.document.openai import OpenAiError
from daemon.gateway.document.operations import OPERATIONS, Answer, Operation
from daemon.gateway.document.parameters import KNOWN
from pixmill.contract import Batch, Job
from pixmill.contract.batches import CancelSelection, PauseOrder, RetrySelection

Node = dict[str, Any]

ABOUT: Final = (
    "Pictures from image-generation APIs, at exactly the speed that your accounts allow. Work is accepted with 202 "
    "and an address; that address has its state, its pictures and its orders."
)
_REFS: Final = "#/components/schemas/{model}"
_CONTRACT: Final[tuple[type[BaseModel], ...]] = (Job, Batch, CancelSelection, RetrySelection, PauseOrder)
# Documents of a mounted app name no schema of FastAPI's own: no request is validated by it.
_FOREIGN: Final = ("HTTPValidationError", "ValidationError")
EVENTS: Final = "text/event-stream"
# OpenAPI 3.1 has no schema for a stream of events: tools take it for that of one event, or of the whole.
_EVENT: Final = {"description": "events with `event`, `data` in JSON, and perhaps `id`"}
_FRAMES: Final = (
    "retry: 3127\n\nid: 1790000000000-0\nevent: job.succeeded\n"
    'data: {"tenant":"default","job":"i1","item":"i1","batch":"b1","time":"2026-09-21T13:33:20.000Z","images":[]}\n\n'
    "event: end\ndata: {}\n\n"
)


def document_of(app: FastAPI) -> Node:
    """The document; the app keeps it, since it never changes."""
    if app.openapi_schema is None:
        app.openapi_schema = _made(app)
    return app.openapi_schema


def _made(app: FastAPI) -> Node:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=ABOUT)
    for path, methods in document["paths"].items():
        for method, node in methods.items():
            if (operation := OPERATIONS.get(f"{method.upper()} {path}")) is not None:
                _complete(node, operation)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _FOREIGN:
        schemas.pop(name, None)
    schemas |= _schemas()
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "a key of `pixmill key new`"},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
    }
    # Without any keys, this machine alone is served, and needs none.
    document["security"] = [{"key": []}, {"session": []}, {}]
    return document


def _complete(node: Node, operation: Operation) -> None:
    node["operationId"] = operation.id
    text = str(node.pop("description", ""))
    node["summary"], _, node["description"] = text.partition("\n")
    node["description"] = node["description"].strip() or node["summary"]
    declared = [_parameter(operation, one) for one in node.get("parameters", ())]
    node["parameters"] = [*declared, *map(dict, operation.parameters)]
    if operation.body is not None:
        node["requestBody"] = dict(operation.body)
    if not operation.needs_key:
        node["security"] = []
    codes = joined(*operation.all_codes)
    node["responses"] = {
        **{str(status): _answer(status, shape) for status, shape in operation.answers.items()},
        **{str(status): _refusal(operation, status, codes[status]) for status in _statuses(operation, codes)},
    }
    if operation.openai and 200 in operation.answers and "stream" in str(operation.body):
        events = {"schema": _EVENT, "example": "event: image_generation.completed\ndata: {}\n\n"}
        node["responses"]["200"]["content"][EVENTS] = events


def _statuses(operation: Operation, codes: Mapping[int, tuple[str, ...]]) -> list[int]:
    # A 422 of ours is a 400 in OpenAI's API.
    return [status for status in codes if not (operation.openai and status == 422)]


def _parameter(operation: Operation, declared: Node) -> Node:
    name = declared["name"]
    known = KNOWN.get(f"{operation.id}.{name}") or KNOWN.get(name)
    if known is None:
        return declared
    return {"name": name, "in": declared["in"], "required": declared["required"], **known}


def _answer(status: int, shape: Answer) -> Node:
    if shape is None:
        return {"description": HTTPStatus(status).phrase}
    if isinstance(shape, tuple):
        content: Node = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in shape}
        if EVENTS in content:
            content[EVENTS] = {"schema": _EVENT, "example": _FRAMES}
        return {"description": HTTPStatus(status).phrase, "content": content}
    text = (shape.__doc__ or "").strip()
    return {
        "description": text,
        "content": {JSON: {"schema": ref(shape.__name__), "example": shape.example}},
    }


def _refusal(operation: Operation, status: int, codes: tuple[str, ...]) -> Node:
    """The description of a refusal with its codes."""
    content: Node = {}
    if operation.openai:
        content[JSON] = {"schema": ref(OpenAiError.__name__), "example": OpenAiError.example}
    else:
        allowed = {"properties": {"status": {"const": status}, "code": {"enum": list(codes)}}}
        example = {
            "type": f"urn:pixmill:problem:{codes[0]}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": f"{CODES[codes[0]].capitalize()}.",
            "code": codes[0],
        }
        content[MEDIA_TYPE] = {"schema": {"allOf": [ref("Problem"), allowed]}, "example": example}
    lines = "; ".join(f"`{code}`: {CODES[code]}" for code in codes if code in CODES)
    return {"description": lines or HTTPStatus(status).phrase, "content": content}


def _schemas() -> Node:
    shapes = {
        shape.__name__: shape
        for operation in OPERATIONS.values()
        for shape in operation.answers.values()
        if isinstance(shape, type)
    }
    models: list[type[BaseModel]] = [*_CONTRACT, *shapes.values(), OpenAiError]
    _, made = models_json_schema([(model, "validation") for model in models], ref_template=_REFS)
    schemas: Node = made["$defs"]
    schemas["NewJob"] = _without(schemas["Job"], optional=("id",))
    schemas["NewBatch"] = _without(schemas["Batch"], optional=("id",), gone=("part", "parts"))
    schemas["Problem"] = {
        "type": "object",
        "description": "A refusal or a failure (RFC 9457). `code` is stable.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "a sentence for people"},
            "code": {"type": "string", "description": "for programs"},
            "field": {"type": "string"},
            "retry_after": {"type": "integer", "description": "seconds"},
        },
    }
    return schemas


def _without(schema: Node, *, optional: tuple[str, ...], gone: tuple[str, ...] = ()) -> Node:
    """A model of which `optional` fields may be left out, and `gone` must be."""
    properties = {name: value for name, value in schema["properties"].items() if name not in gone}
    required = [name for name in schema["required"] if name not in optional]
    return {**schema, "properties": properties, "required": required}
