"""The simulator as one object: its ASGI app, its engine, and the HTTP server around them.

Besides the wire it answers `GET /simulator/ledger`, `POST /simulator/faults`, `POST /simulator/reset`.
"""

from __future__ import annotations

import time

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from providers.http.asgi import AsgiServer
from providers.simulator.arrivals import Arrivals, StampedSocket
from providers.simulator.engine import Engine
from providers.simulator.faults import Fault, FaultKind, Faults
from providers.simulator.ledger import Ledger
from providers.simulator.pictures import Pictures
from providers.simulator.quotas import Clock
from providers.simulator.recorder import Recorder
from providers.simulator.settings import Rate, SimulatorSettings
from providers.simulator.tasks import Tasks
from providers.simulator.wires.base import json_response
from providers.simulator.wires.hunyuan import Tc3Wire
from providers.simulator.wires.modelscope import ModelScopeWire
from providers.simulator.wires.openai import OpenAIWire
from providers.simulator.wires.openrouter import ChatWire, ImagesWire
from providers.simulator.wires.tokenhub import TokenHubCallWire, TokenHubTaskWire


class Simulator:
    """A simulated provider; `async with Simulator(settings) as simulator` runs it on a free loopback port."""

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.settings = settings or SimulatorSettings()
        arrivals = Arrivals(clock)
        self._engine = Engine(self.settings, clock, arrivals.now_s)
        pictures = Pictures(self.settings, clock)
        self._tasks = Tasks(self._engine, pictures)
        call_wires = OpenAIWire(self._engine, pictures), ChatWire(self._engine), ImagesWire(self._engine)
        task_wires = (
            wire(self._engine, self._tasks)
            for wire in (ModelScopeWire, Tc3Wire, TokenHubTaskWire, TokenHubCallWire)
        )
        routes = [
            *(route for wire in (*call_wires, *task_wires) for route in wire.routes),
            *pictures.routes,
            Route("/simulator/ledger", self._get_ledger, methods=["GET"]),
            Route("/simulator/faults", self._post_fault, methods=["POST"]),
            Route("/simulator/reset", self._post_reset, methods=["POST"]),
            Route("/healthz", self._healthz, methods=["GET"]),
        ]
        self.app = Starlette(routes=routes)
        served: ASGIApp = self.app
        if self.settings.record_requests:
            served = Recorder(self.app, lambda request: self.ledger.requests.append(request))
        self._server = AsgiServer(arrivals.around(served), host, port, listener=StampedSocket)

    @property
    def url(self) -> str:
        """The server's root, without a slash at the end."""
        return self._server.url

    @property
    def base_url(self) -> str:
        """The base address for a client of the OpenAI wire."""
        return f"{self.url}/v1"

    @property
    def modelscope_url(self) -> str:
        """The base address for a client of the ModelScope wire."""
        return f"{self.url}/modelscope"

    @property
    def openrouter_url(self) -> str:
        """The base address for a client of OpenRouter's wires."""
        return f"{self.url}/api/v1"

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def ledger(self) -> Ledger:
        """The books since the start or the last reset."""
        return self._engine.ledger

    @property
    def faults(self) -> Faults:
        """The faults that wait for the next calls."""
        return self._engine.faults

    def reset(self) -> None:
        """Forget quotas, ledger, faults and tasks."""
        self._engine.reset()
        self._tasks.reset()

    async def start(self) -> None:
        """Listen; see AsgiServer.start."""
        await self._engine.warm_up()
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening, and end the running tasks."""
        await self._server.stop()
        await self._tasks.aclose()

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _get_ledger(self, request: Request) -> Response:
        limits = (self.settings.images, self.settings.requests)
        windows_s = sorted({limit.window_s for limit in limits if isinstance(limit, Rate)})
        polls = self.settings.polls
        document = self.ledger.summary(windows_s, None if polls is None else polls.window_s)
        if "entries" in request.query_params:
            document["entries"] = self.ledger.entries()
        return json_response(document)

    async def _post_fault(self, request: Request) -> Response:
        """Body: the fields of a Fault, `{"kind": ..., "count": 1, "prompt": "only calls with this text"}`."""
        try:
            fields = orjson.loads(await request.body())
            self.faults.add(Fault(**{**fields, "kind": FaultKind(fields["kind"])}))
        except (ValueError, TypeError, KeyError) as error:
            kinds = ", ".join(FaultKind)
            return json_response({"error": f"This is no fault ({error}). Kinds are {kinds}."}, 400)
        return json_response({"accepted": fields})

    async def _post_reset(self, _request: Request) -> Response:
        self.reset()
        return json_response({"reset": True})

    async def _healthz(self, _request: Request) -> Response:
        return json_response({"status": "ok"})
