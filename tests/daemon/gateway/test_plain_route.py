"""A plain route finds the arguments of its endpoint as FastAPI's own routes do, and refuses what it does not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from daemon.gateway.answering import problems
from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.access import READS
from daemon.gateway.openai.route import response_of
from daemon.gateway.requests.route import PlainRoute

ADDRESSES = (
    "/things/a%20b%2Bc",
    "/things/%E7%8C%AB?tenant=",
    "/things/x?tenant=one&tenant=two&wait",
    "/things/x?wait=a%26b+c&unknown=1",
    "/things/x?%74enant=shop&wait=%FF",
)


async def of_request(request: Request) -> str:
    request.state.calls = [*getattr(request.state, "calls", []), "name"]
    return request.headers.get("x-name", "nobody")


async def checked(request: Request) -> str:
    request.state.calls = [*getattr(request.state, "calls", []), "checked"]
    if request.headers.get("x-name") == "stranger":
        raise Problem(403, "missing_scope", "Not for strangers.")
    return "checked"


Name = Annotated[str, Depends(of_request)]
Checked = Annotated[str, Depends(checked)]


async def seen(
    request: Request,
    name: Name,
    check: Checked,
    ident: str,
    tenant: str | None = None,
    wait: str | None = None,
) -> Response:
    request.state.calls.append("endpoint")
    if ident == "gone":
        raise Problem(404, "not_found", "Nothing is here.")
    return Response(repr((request.url.path, name, check, ident, tenant, wait, request.state.calls)))


def client_of(route_class: type[APIRoute]) -> TestClient:
    """A client of an app that is built as the gateway's is."""
    router = APIRouter(route_class=route_class)
    router.get("/things/{ident}")(seen)
    app = FastAPI(routes=[*router.routes])
    problems.install(app, router.routes, response_of)
    return TestClient(app)


def answers(method: str, address: str, name: str) -> list[tuple[int, str | None, bytes]]:
    """The replies of both kinds of routes."""
    found = [
        client_of(kind).request(method, address, headers={"X-Name": name}) for kind in (PlainRoute, APIRoute)
    ]
    return [(one.status_code, one.headers.get("allow"), one.content) for one in found]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_endpoint_gets_the_same_arguments(address: str) -> None:
    ours, theirs = answers("GET", address, "anna")
    assert ours == theirs
    assert ours[0] == 200
    assert b"anna" in ours[2]


def test_dependencies_are_found_in_their_order_and_before_the_endpoint() -> None:
    ours, theirs = answers("GET", "/things/x", "anna")
    assert ours == theirs
    assert b"['name', 'checked', 'endpoint']" in ours[2]


@pytest.mark.parametrize(("ident", "name", "status"), [("gone", "anna", 404), ("gone", "stranger", 403)])
def test_a_problem_of_a_dependency_comes_before_one_of_the_endpoint(
    ident: str, name: str, status: int
) -> None:
    ours, theirs = answers("GET", f"/things/{ident}", name)
    assert ours == theirs
    assert ours[0] == status


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_another_method_is_refused_with_those_that_are_taken(method: str) -> None:
    ours, theirs = answers(method, "/things/x", "anna")
    assert ours == theirs
    assert ours[:2] == (405, "GET")


def test_both_have_the_same_document() -> None:
    ours, theirs = (client_of(kind).get("/openapi.json") for kind in (PlainRoute, APIRoute))
    assert ours.content == theirs.content


def of_thread(request: Request) -> str:
    return request.method


async def of_address(request: Request, tenant: str | None = None) -> str | None:
    return tenant


async def of_another(request: Request, name: Name) -> str:
    return name


async def with_header(request: Request, x_name: Annotated[str | None, Header()] = None) -> Response:
    return Response(x_name)


async def with_number(request: Request, count: int = 0) -> Response:
    return Response(str(count))


async def with_need(request: Request, tenant: str) -> Response:
    return Response(tenant)


async def with_alias(request: Request, tenant: Annotated[str, Query(alias="of")] = "") -> Response:
    return Response(tenant)


async def with_bound(request: Request, tenant: Annotated[str, Query(max_length=3)] = "") -> Response:
    return Response(tenant)


async def with_other_name(sent: Request) -> Response:
    return Response(sent.method)


async def with_response(request: Request, response: Response) -> Response:
    return response


async def with_tasks(request: Request, tasks: BackgroundTasks) -> Response:
    return Response(str(tasks))


async def with_thread(request: Request, one: Annotated[str, Depends(of_thread)]) -> Response:
    return Response(one)


async def with_address(request: Request, one: Annotated[str | None, Depends(of_address)]) -> Response:
    return Response(one)


async def with_another(request: Request, one: Annotated[str, Depends(of_another)]) -> Response:
    return Response(one)


async def without_request() -> Response:
    return Response()


def plain_function(request: Request) -> Response:
    return Response(request.method)


@pytest.mark.parametrize(
    "endpoint",
    [
        with_header,
        with_number,
        with_need,
        with_alias,
        with_bound,
        with_other_name,
        with_response,
        with_tasks,
        with_thread,
        with_address,
        with_another,
        without_request,
        plain_function,
    ],
)
def test_an_endpoint_that_needs_more_is_refused_at_the_start(endpoint: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=f"{endpoint.__name__} is no endpoint for a plain route"):
        APIRouter(route_class=PlainRoute).get("/things")(endpoint)


async def plain(request: Request) -> Response:
    return Response(request.method)


@pytest.mark.parametrize("of", ["route", "router"])
@pytest.mark.parametrize("options", [{"dependencies": [READS]}, {"max_body_size": 10}])
def test_an_option_without_effect_is_refused_at_the_start(of: str, options: dict[str, Any]) -> None:
    router = APIRouter(route_class=PlainRoute, **(options if of == "router" else {}))
    with pytest.raises(TypeError, match="plain is no endpoint for a plain route"):
        router.get("/things", **(options if of == "route" else {}))(plain)
    APIRouter(route_class=PlainRoute).get("/things")(plain)


def test_an_included_route_has_the_dependencies_of_its_inclusion() -> None:
    router, app = APIRouter(route_class=PlainRoute), FastAPI()
    router.get("/things")(plain)
    app.include_router(router, dependencies=[Depends(checked)])
    with pytest.raises(Problem, match="Not for strangers"):
        TestClient(app).get("/things", headers={"X-Name": "stranger"})
