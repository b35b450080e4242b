"""The OpenAPI document is whole: each address is described, and each example is right by its own schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import orjson
import pytest
from fastapi.routing import APIRoute
from typer.testing import CliRunner

from daemon.cli.main import app as cli
from daemon.gateway.app import ROUTERS
from daemon.gateway.document.codes import CODES
from daemon.gateway.document.operations import OPERATIONS
from tests.daemon.gateway.document.documented import JSON, document, faults_of
from tests.daemon.gateway.rig import Door

FIRST_WORD = re.compile(r"[A-Z]")


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for method, node in methods.items():
            yield f"{method.upper()} {path}", node


EACH = pytest.mark.parametrize(
    ("name", "operation"), list(operations()), ids=lambda it: it if isinstance(it, str) else ""
)


def test_the_table_of_operations_has_each_address_of_the_app() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    served = {f"{method} {route.path_format}" for route in routes for method in route.methods or ()}
    assert served == {*OPERATIONS} == {name for name, _ in operations()}


def test_operation_ids_are_unique_and_the_documented_ones() -> None:
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(ids) == len({*ids})
    assert {*ids} == {operation.id for operation in OPERATIONS.values()}


@EACH
def test_each_operation_says_what_it_does_and_how_it_refuses(name: str, operation: dict[str, Any]) -> None:
    assert FIRST_WORD.match(operation["summary"]), name
    assert operation["tags"]
    statuses = {*operation["responses"]}
    assert statuses & {"200", "201", "202", "204"}
    assert any(status.startswith("4") for status in statuses)
    assert all(answer["description"] for answer in operation["responses"].values())
    if name.startswith("POST /v1/batches") or "{" in name:
        assert operation.get("requestBody") or operation["parameters"]


@EACH
def test_each_parameter_has_a_schema_and_words(name: str, operation: dict[str, Any]) -> None:
    for parameter in operation["parameters"]:
        assert parameter["description"], name
        jsonschema_rs.meta.validate(parameter["schema"])
        if "example" in parameter:
            assert faults_of(parameter["schema"], parameter["example"]) == []
        if parameter["in"] == "path":
            assert "example" in parameter, "a tool must be able to begin"
            assert {"pattern", "enum", "minimum"} & parameter["schema"].keys()


@EACH
def test_each_example_is_right_by_its_own_schema(name: str, operation: dict[str, Any]) -> None:
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    examples = 0
    for content in [
        body["content"] for body in (*bodies, *operation["responses"].values()) if "content" in body
    ]:
        for kind, media in content.items():
            if kind not in JSON:
                continue
            assert faults_of(media["schema"], media["example"]) == [], f"{name} {kind}"
            examples += 1
    assert examples > 0


def test_each_code_that_is_documented_has_its_meaning() -> None:
    used = {
        code
        for operation in OPERATIONS.values()
        if not operation.openai
        for group in operation.all_codes
        for codes in group.values()
        for code in codes
    }
    assert used | {"method_not_allowed"} == {*CODES}


async def test_a_gateway_serves_the_document_that_the_command_prints(quiet_door: Door) -> None:
    served = (await quiet_door.http.get("/openapi.json")).json()
    printed = CliRunner().invoke(cli, ["openapi"])
    assert printed.exit_code == 0
    assert served == document()
    assert served["openapi"].startswith("3.1")
    assert orjson.loads(printed.stdout) == served


async def test_pages_that_load_scripts_of_others_are_not_served(quiet_door: Door) -> None:
    assert [(await quiet_door.http.get(page)).status_code for page in ("/docs", "/redoc")] == [404, 404]
