"""A plain route finds the arguments of its endpoint as FastAPI's own routes do."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from daemon.gateway.requests.route import PlainRoute

ADDRESSES = (
    "/things/a%20b%2Bc",
    "/things/%E7%8C%AB?tenant=",
    "/things/x?tenant=one&tenant=two&wait",
    "/things/x?wait=a%26b+c&unknown=1",
    "/things/x?%74enant=shop&wait=%FF",
)


async def of_request(request: Request) -> str:
    return request.headers.get("x-name", "nobody")


async def seen(
    request: Request,
    name: Annotated[str, Depends(of_request)],
    ident: str,
    tenant: str | None = None,
    wait: str | None = None,
) -> Response:
    return Response(repr((request.url.path, name, ident, tenant, wait)))


def client_of(route_class: type[APIRoute]) -> TestClient:
    router = APIRouter(route_class=route_class)
    router.get("/things/{ident}")(seen)
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_endpoint_gets_the_same_arguments(address: str) -> None:
    ours, theirs = (
        client_of(kind).get(address, headers={"X-Name": "anna"}) for kind in (PlainRoute, APIRoute)
    )
    assert ours.status_code == theirs.status_code == 200
    assert ours.content == theirs.content
    assert "anna" in ours.text


def test_both_have_the_same_document() -> None:
    ours, theirs = (client_of(kind).get("/openapi.json") for kind in (PlainRoute, APIRoute))
    assert ours.content == theirs.content


async def with_header(x_name: Annotated[str | None, Header()] = None) -> Response:
    return Response(x_name)


async def with_number(count: int) -> Response:
    return Response(str(count))


@pytest.mark.parametrize("endpoint", [with_header, with_number])
def test_an_endpoint_that_takes_more_is_refused_at_the_start(endpoint: object) -> None:
    with pytest.raises(TypeError, match="is no endpoint for a plain route"):
        APIRouter(route_class=PlainRoute).get("/things")(endpoint)  # type: ignore[type-var]
