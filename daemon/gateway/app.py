"""Makes the ASGI app of a gateway; it may be mounted under any prefix of another app."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI

from daemon.gateway.answering import problems
from daemon.gateway.compat import slides, studio
from daemon.gateway.document.document import document_of
from daemon.gateway.edge import Edge
from daemon.gateway.endpoints import (
    archive,
    batch_orders,
    batches,
    dead,
    deletion,
    images,
    inputs,
    items,
    jobs,
    orders,
    quotas,
    schemas,
    session,
    streams,
    usage,
)
from daemon.gateway.gateway import Gateway
from daemon.gateway.openai import images as openai
from daemon.gateway.openai.route import response_of
from daemon.gateway.page import serving

ROUTERS = (
    jobs.router,
    orders.router,
    streams.router,
    batches.router,
    items.router,
    batch_orders.router,
    deletion.router,
    archive.router,
    images.router,
    inputs.router,
    quotas.router,
    dead.router,
    usage.router,
    schemas.router,
    session.router,
    openai.router,
    slides.router,
    studio.router,
)
# A first visit of the page makes about 70 requests, and each looks through the routes that stand before its own.
_ROUTES = [route for router in (serving.router, *ROUTERS) for route in router.routes]


def create_app(gateway: Gateway) -> FastAPI:
    """The app. `gateway` is started and stopped by its owner: a mounted app gets no lifespan events."""
    app = _routed()
    app.state.gateway = gateway
    problems.install(app, _ROUTES, response_of)
    app.add_middleware(Edge, gateway=gateway)
    return app


def described() -> dict[str, Any]:
    """The OpenAPI document, without a gateway."""
    return _routed().openapi()


def _routed() -> FastAPI:
    # As one list: a router that is included looks for the route of each request twice. The list takes nothing of what
    # `include_router` adds: no prefix, tags or dependencies, so each router has its own.
    app = FastAPI(
        title="Pixmill",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=[*_ROUTES],
        # A request is one span; `daemon/telemetry/tracing.py` turns traces on, and metrics are Prometheus'.
        telemetry={"operation_spans": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.openapi = partial(document_of, app)  # type: ignore[method-assign]  # as FastAPI documents it
    return app
