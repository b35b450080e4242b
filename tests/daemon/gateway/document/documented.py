"""Compares answers with the OpenAPI document: every status, every code and every body must be described there."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx2
import jsonschema_rs
import orjson

from daemon.gateway import app

Node = dict[str, Any]
JSON = ("application/json", "application/problem+json")


@cache
def document() -> Node:
    """The document, as the command prints it."""
    return app.described()


def faults_of(schema: Node, value: Any) -> list[str]:
    """What is wrong with a value by a schema of the document."""
    whole = {**schema, "components": document()["components"]}
    checked = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
    return [
        f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in checked.iter_errors(value)
    ]


def described(method: str, path: str) -> tuple[str, Node] | None:
    """The address of the document that a path is of, and its description; exact addresses come first."""
    for pattern, name, node in _operations():
        if node["method"] == method and pattern.fullmatch(path):
            return name, node["operation"]
    return None


@cache
def _operations() -> list[tuple[re.Pattern[str], str, Node]]:
    found = []
    for path, methods in document()["paths"].items():
        pattern = re.compile(
            "/".join("[^/]+" if part[:1] == "{" else re.escape(part) for part in path.split("/"))
        )
        found += [
            (pattern, path, {"method": method.upper(), "operation": node}) for method, node in methods.items()
        ]
    return sorted(found, key=lambda one: one[1].count("{"))


async def check(answer: httpx2.Response) -> None:
    """Raise AssertionError for an answer that the document does not describe; a hook of the tests' clients."""
    request = answer.request
    found = described(request.method, request.url.path)
    if found is None or answer.status_code == 405:
        return
    path, operation = found
    where = f"{request.method} {path}: {answer.status_code}"
    told = operation["responses"].get(str(answer.status_code))
    assert told is not None, f"{where} is not in daemon/gateway/document/operations.py"
    kind = answer.headers.get("content-type", "").partition(";")[0]
    content = told.get("content", {})
    assert not kind or kind in content, f"{where} is documented without {kind}"
    if kind in JSON:
        body = orjson.loads(await answer.aread())
        assert (faults := faults_of(content[kind]["schema"], body)) == [], f"{where}: {faults}\n{body}"
