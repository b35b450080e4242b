"""Makes the ASGI app of a gateway; it may be mounted under any prefix of another app."""

from __future__ import annotations

from fastapi import FastAPI

from daemon.gateway import problems
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
from daemon.gateway.seeds import slides, studio

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


def create_app(gateway: Gateway) -> FastAPI:
    """The app. `gateway` is started and stopped by its owner: a mounted app gets no lifespan events."""
    app = FastAPI(title="Pixmill", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.gateway = gateway
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    app.add_middleware(Edge, gateway=gateway)
    return app
